//go:build go1.25

package interleave

import (
	"context"
	"testing"
	"time"

	"google.golang.org/protobuf/protoadapt"

	"github.com/gaesession/gaesession/internal/wire"
)

// noEmptied: a removal deletes the entity instead of emptying it.
func noEmptied(w *world, c *call, _ *transaction) ([]byte, error, bool) {
	if c.name != "ds-put" || len(c.values[0]) > 0 {
		return nil, nil, false
	}
	w.backup.put(w.id, nil)
	return putAnswer(c), nil, true
}

// putAnswer is that of a put which has stored its entity.
func putAnswer(c *call) []byte {
	key := decode(c.request, &wire.PutRequest{}).Entity[0].Key
	return encode(protoadapt.MessageV1Of(&wire.PutResponse{Key: []*wire.Reference{key}}))
}

// blindPut: the get and the put of a transaction are made outside of it.
func blindPut(w *world, c *call, txn *transaction) ([]byte, error, bool) {
	b := &c.actor.breached
	switch c.name {
	case "txn-get":
		response, err := w.appEngine.call("datastore_v3", c.method, c.request)
		return response, err, true
	case "txn-put":
		b.pending = c.request
		return putAnswer(c), nil, true
	case "commit":
		txn.over = true
		if _, err := w.appEngine.call("datastore_v3", "Put", b.pending); err != nil {
			return nil, err, true
		}
		_, err := w.appEngine.call("datastore_v3", "Rollback", c.request)
		return nil, err, true
	}
	return nil, nil, false
}

// noSecondMarker: the marker that ends a removal is not set.
func noSecondMarker(w *world, c *call, _ *transaction) ([]byte, error, bool) {
	if c.name != "set:removed" {
		return nil, nil, false
	}
	c.actor.breached.markers++
	stored := &wire.MemcacheSetResponse{SetStatus: []wire.MemcacheSetResponse_SetStatusCode{wire.MemcacheSetResponse_STORED}}
	return encode(protoadapt.MessageV1Of(stored)), nil, c.actor.breached.markers > 1
}

// blindSwap: whatever is there is replaced.
func blindSwap(w *world, c *call, _ *transaction) ([]byte, error, bool) {
	if c.item == nil || c.item.cas == 0 {
		return nil, nil, false
	}
	request := decode(c.request, &wire.MemcacheSetRequest{})
	request.Item[0].SetPolicy = wire.MemcacheSetRequest_SET.Enum()
	response, err := w.appEngine.call("memcache", "Set", encode(protoadapt.MessageV1Of(request)))
	return response, err, true
}

func TestBrokenProtocolsAreCaught(t *testing.T) {
	prepare(t)
	for _, test := range []struct {
		name     string
		breach   breach
		scenario string
		events   int
	}{
		{"no emptied entity", breach{call: noEmptied}, "unsaved change:a+logout", 0},
		{"blind put instead of the transaction", breach{call: blindPut}, "cached change:a+change:b", 0},
		{"no second marker", breach{call: noSecondMarker}, "evicted read+logout", 1},
		{"blind set instead of compare-and-swap", breach{call: blindSwap}, "cached async:a+change:b", 0},
		{"no emptied entity, cascadestore", breach{call: noEmptied}, "unsaved read+logout cascade", 0},
		{"blind put instead of the transaction, cascadestore", breach{call: blindPut}, "cached change:a+change:b cascade", 0},
		{"blind put instead of the transaction that moves a session", breach{call: blindPut}, "cached change:a+regenerate cascade", 0},
		{"no emptied entity, scsstore", breach{call: noEmptied}, "unsaved read+logout scs", 0},
		{"no Handler around an app of scs", breach{plain: true}, "cached change:a+change:b scs", 0},
		{"no fence around a cache that goes back", breach{unfenced: true}, "cached change:a+logout redis", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			sc, err := parseScenario(test.scenario)
			if err != nil {
				t.Fatal(err)
			}
			x := &explorer{scenario: sc, events: test.events, breach: test.breach, most: 1, switches: unbounded}
			x.explore(t, within(t, time.Minute))
			if len(x.found) == 0 {
				t.Fatalf("not caught: %v", x.stats)
			}
			t.Logf("caught after %d schedules: %v", x.stats.Schedules, x.found[0])
			w := replay(t, sc, test.breach, x.found[0].trace, func(string, ...any) {})
			if w.violation == nil {
				t.Errorf("not found again when the trace was replayed")
			}
			whole := &explorer{scenario: sc, events: test.events, most: 1, switches: unbounded}
			if whole.explore(t, context.Background()); len(whole.found) > 0 {
				t.Errorf("found in the protocol as it is: %v", whole.found[0])
			}
		})
	}
}
