package gaesession_test

import (
	"encoding/hex"
	"testing"

	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

// Attributes are told apart by their names, whatever these are. The names here
// have one FNV-1a hash of 64 bits, which earlier versions told them apart by.
const sameHash1, sameHash2 = "8yn0iYCKYHlIj4-BwPqk", "GReLUrM4wMqfg9yzV3KQ"

func TestAttributesWhoseNamesHaveOneHashAreTwoAttributes(t *testing.T) {
	onEach(t, func(t *testing.T, s *gaetest.Service, o options) {
		for what, c := range map[string]struct{ was, theirs, mine, want attrs }{
			"changes": {
				attrs{sameHash1: 1, sameHash2: 1}, attrs{sameHash1: 2}, attrs{sameHash2: 2}, attrs{sameHash1: 2, sameHash2: 2},
			},
			"a deletion and a new one": {
				attrs{sameHash1: 1}, attrs{sameHash1: nil}, attrs{sameHash2: 2}, attrs{sameHash2: 2},
			},
			"new ones": {
				attrs{"n": 1}, attrs{sameHash1: 1}, attrs{sameHash2: 2}, attrs{"n": 1, sameHash1: 1, sameHash2: 2},
			},
		} {
			t.Run(what, func(t *testing.T) {
				id := login(t, s, o, c.was)
				r := newRequest(s, o)
				sess := r.Get(id)
				change(t, s, o, id, c.theirs)
				for name, v := range c.mine {
					sess.SetAttr(name, v)
				}
				r.Close()
				if err := r.errs.all(); err != nil {
					t.Error(err)
				}
				expectSession(t, s, o, id, c.want)
			})
		}
	})
}

// A visitor who may name an attribute finds such a name at no cost.
func TestAnAttributeThatAVisitorNamesUndoesNoOther(t *testing.T) {
	name, err := hex.DecodeString("6e6f74653a7975366b757408780f3a0b1512050206011d3406") // "note:…"
	if err != nil {
		t.Fatal(err)
	}
	onEach(t, func(t *testing.T, s *gaetest.Service, o options) {
		id := login(t, s, o, attrs{"user": "bob"})
		r := newRequest(s, o)
		sess := r.Get(id)
		change(t, s, o, id, attrs{"coupon_used": true})
		sess.SetAttr(string(name), "x")
		r.Close()
		expectSession(t, s, o, id, attrs{"user": "bob", "coupon_used": true, string(name): "x"})
	})
}
