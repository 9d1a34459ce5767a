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
// itself.
type breach func(w *world, c *call) (response []byte, err error, done bool)

// breachState is what a breach remembers of a request.
type breachState struct {
	put     *item // what it put into Memcache, or seems to have put
	markers int
	pending []byte // a put to be made at the commit
	done    bool   // the commit was made
}

// forged answers a get with an item that is not there, or not any more, under
// the CAS id of what is there.
func forged(w *world, it *item) []byte {
	f := &item{key: it.key, value: it.value, flags: it.flags, expiry: it.expiry, cas: 1}
	if now := w.peek(); now != nil {
		f.cas = now.cas
	}
	return getAnswer(f)
}

// asSet makes a compare-and-swap an unconditional set.
func asSet(w *world, c *call) ([]byte, error) {
	it := *c.item
	it.policy, it.cas = policySet, 0
	response, err := w.call("memcache", "Set", setRequest(&it))
	w.note(c, err)
	return response, err
}

// publishes tells a compare-and-swap for a value that is in step.
func (c *call) publishes() bool { return c.name == "cas:value" || c.name == "cas:settled" }

// noLock: a change seems to put its lock over what it found, but does not, and
// publishes whatever is there.
func noLock(w *world, c *call) ([]byte, error, bool) {
	b := &c.actor.breached
	switch {
	case c.name == "cas:lock":
		b.put = c.item
		return answerStored, nil, true
	case c.name == "get" && b.put != nil:
		return forged(w, b.put), nil, true
	case c.publishes() && b.put != nil:
		response, err := asSet(w, c)
		return response, err, true
	}
	return nil, nil, false
}

// noEmptied: a removal deletes the entity instead of emptying it.
func noEmptied(w *world, c *call) ([]byte, error, bool) {
	if c.name != "ds-put" {
		return nil, nil, false
	}
	key, emptied := putEntity(c.request, w.store.kept().value)
	if !emptied {
		return nil, nil, false
	}
	_, err := w.call("datastore_v3", "Delete", deleteRequest(key))
	w.note(c, err)
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
		w.note(c, nil)
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

// noNonce: a refill takes whatever is there for its own lock.
func noNonce(w *world, c *call) ([]byte, error, bool) {
	b := &c.actor.breached
	switch {
	case c.actor.op.attr != "" || c.actor.op.refresh:
	case c.name == "add:lock":
		b.put = c.item
	case c.name == "get" && b.put != nil:
		return forged(w, b.put), nil, true
	}
	return nil, nil, false
}

// lateSave: a background save takes whatever is there for its own item.
func lateSave(w *world, c *call) ([]byte, error, bool) {
	b := &c.actor.breached
	switch {
	case !c.actor.op.async:
	case c.name == "cas:ahead":
		b.put = c.item
	case c.name == "commit":
		b.done = true
	case c.name == "get" && b.done:
		return forged(w, b.put), nil, true
	case c.publishes() && b.done:
		response, err := asSet(w, c)
		return response, err, true
	}
	return nil, nil, false
}

func TestBrokenProtocolsAreCaught(t *testing.T) {
	for _, test := range []struct {
		name     string
		breach   breach
		scenario string
		events   int
	}{
		{"no lock", noLock, "cached change:a+change:b", 0},
		{"no emptied entity", noEmptied, "unsaved change:a+logout", 0},
		{"blind put instead of the transaction", blindPut, "cached change:a+change:b", 0},
		{"no second marker", noSecondMarker, "evicted read+logout", 1},
		{"refill without nonce check", noNonce, "evicted read+change:a", 0},
		{"late asynchronous save that ignores whose item it finds", lateSave, "cached async:a+change:b", 0},
		{"no lock, cascadestore", noLock, "cached change:a+change:b cascade", 0},
		{"no emptied entity, cascadestore", noEmptied, "unsaved read+logout cascade", 0},
		{"blind put instead of the transaction, cascadestore", blindPut, "cached change:a+change:b cascade", 0},
		{"refill without nonce check, cascadestore", noNonce, "evicted read+change:a cascade", 0},
		{"blind put instead of the transaction that moves a session", blindPut, "cached change:a+regenerate cascade", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			sc, _, err := parseTrace(test.scenario)
			if err != nil {
				t.Fatal(err)
			}
			whole := &explorer{scenario: sc, events: test.events, most: 1}
			if whole.explore(t, within(t, time.Minute)); len(whole.found) > 0 {
				t.Fatalf("found in the protocol as it is: %v", whole.found[0])
			}
			// However slow the machine is: it ends when something is found.
			x := &explorer{scenario: sc, events: test.events, breach: test.breach, most: 1}
			x.explore(t, context.Background())
			if len(x.found) == 0 {
				t.Fatalf("not caught: %v", x.stats)
			}
			t.Logf("caught after %d schedules: %v", x.stats.Schedules, x.found[0])
			w := replay(t, sc, test.breach, x.found[0].trace, func(string, ...any) {})
			if w.violation == nil {
				t.Errorf("not found again when the trace was replayed")
			}
		})
	}
}
