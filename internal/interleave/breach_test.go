//go:build go1.25

package interleave

import (
	"context"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// A breach breaks the protocol on its way to the services, so that the store
// needs no switch for it: it sees a call before it is made, and may answer it
// itself. Rules of the protocol that no call shows are left out in rules_test.go.
type breach func(w *world, c *call) (response []byte, err error, done bool)

// breachState is what a breach remembers of a request.
type breachState struct {
	markers int
	pending []byte // a put to be made at the commit
}

// answerStored is the answer of a memcache Set that has stored its item.
var answerStored = []byte{1 << 3, 1}

// noEmptied: a removal deletes the entity instead of emptying it.
func noEmptied(w *world, c *call) ([]byte, error, bool) {
	if c.name != "ds-put" {
		return nil, nil, false
	}
	key, value := putEntity(c.request, w.store.kept().value)
	if len(value) > 0 {
		return nil, nil, false
	}
	_, err := w.call("datastore_v3", "Delete", deleteRequest(key))
	w.changed(c, err)
	return putAnswer(key), err, true
}

func putAnswer(key []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), key)
}

// blindPut: the get and the put of a transaction are made outside of it.
func blindPut(w *world, c *call) ([]byte, error, bool) {
	b := &c.actor.breached
	switch c.name {
	case "txn-get":
		response, err := w.call(c.service, c.method, c.request)
		return response, err, true
	case "txn-put":
		b.pending = c.request
		key, _ := putEntity(c.request, w.store.kept().value)
		return putAnswer(key), nil, true
	case "commit":
		c.actor.txn = nil
		if _, err := w.call(c.service, "Put", b.pending); err != nil {
			return nil, err, true
		}
		w.changed(c, nil)
		_, err := w.call(c.service, "Rollback", c.request)
		return nil, err, true
	}
	return nil, nil, false
}

// noSecondMarker: the marker that ends a removal is not set.
func noSecondMarker(w *world, c *call) ([]byte, error, bool) {
	if c.name != "set:removed" {
		return nil, nil, false
	}
	c.actor.breached.markers++
	return answerStored, nil, c.actor.breached.markers > 1
}

// blindSwap: whatever is there is replaced.
func blindSwap(w *world, c *call) ([]byte, error, bool) {
	if c.item == nil || c.item.policy != policyCAS {
		return nil, nil, false
	}
	it := *c.item
	it.policy, it.cas = policySet, 0
	response, err := w.call("memcache", "Set", setRequest(&it))
	w.changed(c, err)
	return response, err, true
}

func TestBrokenProtocolsAreCaught(t *testing.T) {
	for _, test := range []struct {
		name     string
		breach   breach
		scenario string
		events   int
	}{
		{"no emptied entity", noEmptied, "unsaved change:a+logout", 0},
		{"blind put instead of the transaction", blindPut, "cached change:a+change:b", 0},
		{"no second marker", noSecondMarker, "evicted read+logout", 1},
		{"blind set instead of compare-and-swap", blindSwap, "cached async:a+change:b", 0},
		{"no emptied entity, cascadestore", noEmptied, "unsaved read+logout cascade", 0},
		{"blind put instead of the transaction, cascadestore", blindPut, "cached change:a+change:b cascade", 0},
		{"blind put instead of the transaction that moves a session", blindPut, "cached change:a+regenerate cascade", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			sc, _, err := parseTrace(test.scenario)
			if err != nil {
				t.Fatal(err)
			}
			x := &explorer{scenario: sc, events: test.events, breach: test.breach, most: 1}
			x.explore(t, within(t, time.Minute))
			if len(x.found) == 0 {
				t.Fatalf("not caught: %v", x.stats)
			}
			t.Logf("caught after %d schedules: %v", x.stats.Schedules, x.found[0])
			w := replay(t, sc, test.breach, x.found[0].trace, func(string, ...any) {})
			if w.violation == nil {
				t.Errorf("not found again when the trace was replayed")
			}
			whole := &explorer{scenario: sc, events: test.events, most: 1}
			if whole.explore(t, context.Background()); len(whole.found) > 0 {
				t.Errorf("found in the protocol as it is: %v", whole.found[0])
			}
		})
	}
}
