package scscodec

import (
	"bytes"
	"encoding/gob"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/alexedwards/scs/v2"
)

type item struct{ Name string }

func init() {
	gob.Register(item{})
	gob.Register(time.Time{})
}

var samples = []map[string]any{
	nil, {}, {"user": "alice", "visits": 7, "rate": 1.5, "admin": true, "n": int8(-1)},
	{"item": item{"book"}}, {"at": time.Unix(5, 6)}, {"bytes": []byte("x"), "n": 1}, {"nil": nil},
}

func TestGobWritesAndReadsWhatGobCodecDoes(t *testing.T) {
	var plain scs.GobCodec
	for _, deadline := range []time.Time{{}, time.Unix(1e9, 5).UTC(), time.Unix(1e9, 5).In(time.FixedZone("", 3600))} {
		for _, values := range samples {
			ours, err := Gob{}.Encode(deadline, values)
			theirs, perr := plain.Encode(deadline, values)
			if err != nil || perr != nil || len(ours) != len(theirs) || len(values) < 2 && !bytes.Equal(ours, theirs) {
				t.Errorf("%v: got  %x, %v\nwant %x, %v", values, ours, err, theirs, perr)
			}
			for _, b := range [][]byte{ours, theirs} {
				wantDeadline, want, _ := plain.Decode(b)
				gotDeadline, got, err := Gob{}.Decode(b)
				if err != nil || got == nil || len(got)+len(want) > 0 && !reflect.DeepEqual(got, want) || fmt.Sprint(gotDeadline) != fmt.Sprint(wantDeadline) {
					t.Errorf("%v: got %v, %v, %v, want %v", values, gotDeadline, got, err, wantDeadline)
				}
			}
		}
	}
}

// If this fails, scs or gob has changed, and all is left to scs.
func TestSessionsOfScalarsAreNotLeftToGobCodec(t *testing.T) {
	deadline, values := time.Unix(1e9, 0).UTC(), samples[2]
	b, err := scs.GobCodec{}.Encode(deadline, values)
	if err != nil {
		t.Fatal(err)
	}
	if got := sessions.Encode(&session{deadline, values}); len(got) != len(b) {
		t.Errorf("got %x, want %x", got, b)
	}
	if s := new(session); !sessions.Decode(b, s) || !reflect.DeepEqual(s.Values, values) {
		t.Errorf("got %v, want %v", s.Values, values)
	}
}

func TestErrorsAreThoseOfGob(t *testing.T) {
	for _, values := range []map[string]any{{"channel": make(chan int)}, {"unregistered": struct{ A int }{1}}} {
		_, want := scs.GobCodec{}.Encode(time.Now(), values)
		if _, err := (Gob{}).Encode(time.Now(), values); want == nil || err == nil || err.Error() != want.Error() {
			t.Errorf("got %v, want %v", err, want)
		}
	}
}

// Gob itself would make room for what a stream announces.
func TestDamagedStreamsAreRefusedBeforeGobSeesThem(t *testing.T) {
	for _, b := range [][]byte{nil, []byte("damaged"), {0xf8, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}} {
		if _, _, err := (Gob{}).Decode(b); err == nil || !strings.HasPrefix(err.Error(), "gobstream: ") {
			t.Errorf("%x: got %v", b, err)
		}
	}
}

func TestOtherCodecsStayAsTheyAre(t *testing.T) {
	if _, is := Faster(scs.GobCodec{}).(Gob); !is {
		t.Error("scs.GobCodec stays")
	}
	if other := (otherCodec{}); Faster(other) != other {
		t.Errorf("%T is replaced", other)
	}
}

type otherCodec struct{ scs.Codec }
