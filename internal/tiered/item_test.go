package tiered

import (
	"reflect"
	"testing"
)

func TestItemsAreDecodedAsTheyWereEncoded(t *testing.T) {
	v := &item{kind: value, value: []byte("session")}
	a := &item{kind: ahead, value: []byte("session"), base: []byte("before"), pending: []nonce{newNonce(), newNonce()}}
	for name, it := range map[string]*item{
		"value":                v,
		"lock":                 {kind: lock, nonce: newNonce()},
		"lock over a value":    {kind: lock, nonce: newNonce(), held: v},
		"lock over one ahead":  {kind: lock, nonce: newNonce(), held: a},
		"removed":              {kind: removed},
		"ahead":                a,
		"ahead, never saved":   {kind: ahead, value: []byte("session"), base: []byte{}, pending: []nonce{}},
		"settled":              {kind: settled, value: []byte("session"), pending: []nonce{newNonce()}},
		"ahead of many others": {kind: ahead, value: []byte("session"), base: []byte("before"), pending: make([]nonce, maxPending)},
	} {
		raw := encode(it)
		if len(raw.Value) > it.size() {
			t.Errorf("%s: takes %d bytes, and says %d", name, len(raw.Value), it.size())
		}
		got, err := decode(&raw)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got.raw = nil
		if !reflect.DeepEqual(got, it) {
			t.Errorf("%s: got %+v, want %+v", name, got, it)
		}
	}
}

func FuzzDecodeItem(f *testing.F) {
	v := &item{kind: value, value: []byte("session")}
	a := &item{kind: ahead, value: []byte("session"), base: []byte("before"), pending: []nonce{{1}, {2}}}
	for _, it := range []*item{v, a, {kind: removed}, {kind: lock}, {kind: lock, held: v}, {kind: lock, held: a}} {
		raw := encode(it)
		f.Add(raw.Flags, raw.Value)
	}
	f.Add(uint32(ahead), []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Add(uint32(5), []byte("x"))
	f.Fuzz(func(t *testing.T, flags uint32, b []byte) {
		it, err := decode(&Item{Flags: flags, Value: b})
		if err != nil {
			return
		}
		// What was understood is encoded to the same again.
		raw := encode(it)
		again, err := decode(&raw)
		if err != nil || raw.Flags != flags {
			t.Fatalf("flags %d, encoded again %d: %v", flags, raw.Flags, err)
		}
		it.raw, again.raw = nil, nil
		if !reflect.DeepEqual(again, it) {
			t.Errorf("got %+v, want %+v", again, it)
		}
		if s := it.session(); s != nil && len(s.value) == 0 {
			t.Error("a session without a value")
		}
	})
}
