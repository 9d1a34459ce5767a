package linearizability

import (
	"context"
	"reflect"
	"testing"

	"github.com/anishathalye/porcupine"
	"google.golang.org/appengine/v2"
	"google.golang.org/protobuf/protoadapt"

	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

// The breaches change calls on their way to the services, and so the protocol.

// blindPut turns transactions into a get and a put of their own.
func blindPut(s *gaetest.Service, ctx context.Context, service, method string, in, out protoadapt.MessageV1) error {
	switch {
	case service != "datastore_v3":
	case method == "BeginTransaction", method == "Commit", method == "Rollback":
		return nil
	default:
		ctx = s.Context() // in which there is no transaction
	}
	return appengine.APICall(ctx, service, method, in, out)
}

// blindSet turns compare-and-swap and add into set.
func blindSet(_ *gaetest.Service, ctx context.Context, service, method string, in, out protoadapt.MessageV1) error {
	if service == "memcache" && method == "Set" {
		items := reflect.ValueOf(in).Elem().FieldByName("Item")
		for i := range items.Len() {
			if policy := items.Index(i).Elem().FieldByName("SetPolicy"); !policy.IsNil() {
				policy.Elem().SetInt(1)
			}
		}
	}
	return appengine.APICall(ctx, service, method, in, out)
}

// noRemoval leaves the entity of a removed session as it is.
func noRemoval(_ *gaetest.Service, ctx context.Context, service, method string, in, out protoadapt.MessageV1) error {
	if service == "datastore_v3" && method == "Put" && isEmptied(in) {
		key := reflect.ValueOf(in).Elem().FieldByName("Entity").Index(0).Elem().FieldByName("Key")
		keys := reflect.ValueOf(out).Elem().FieldByName("Key")
		keys.Set(reflect.Append(keys, key))
		return nil
	}
	return appengine.APICall(ctx, service, method, in, out)
}

// isEmptied reports whether a put is of an entity with an empty property val.
func isEmptied(put protoadapt.MessageV1) bool {
	entity := reflect.ValueOf(put).Elem().FieldByName("Entity").Index(0).Elem()
	for _, kind := range []string{"Property", "RawProperty"} {
		properties := entity.FieldByName(kind)
		for i := range properties.Len() {
			p := properties.Index(i).Elem()
			if p.FieldByName("Name").Elem().String() != "val" {
				continue
			}
			v := p.FieldByName("Value").Elem().FieldByName("StringValue")
			return v.IsNil() || v.Elem().Len() == 0
		}
	}
	return false
}

func TestABrokenProtocolIsCaught(t *testing.T) {
	for _, breach := range []struct {
		name string
		call callFunc
	}{
		{"transactions are blind puts", blindPut},
		{"compare-and-swap is a blind set", blindSet},
		{"removals leave Datastore alone", noRemoval},
	} {
		t.Run(breach.name, func(t *testing.T) {
			total, ordered, promised := 0, false, false
			for attempt := range uint64(10) {
				r := newRun(gaetest.Local(t))
				r.seed += attempt
				r.operations, r.async, r.evicting, r.call = 1000, 0.5, true, breach.call
				history := r.do(t)
				total += len(history)
				if wrong := r.promised(history); len(wrong) > 0 {
					t.Logf("caught by the judge after %d operations: %s", total, wrong[0])
					promised = true
				}
				if v := linearize(history); v.result == porcupine.Illegal {
					t.Logf("caught after %d operations: %s", total, v.explain(t))
					ordered = true
				}
				if ordered && promised {
					return
				}
			}
			t.Errorf("not caught in %d operations", total)
		})
	}
}
