package live

import (
	"errors"
	"strings"
	"testing"

	"github.com/gaesession/gaesession/tier"
)

var errCodec = errors.New("codec")

func TestAnErrorAndAPanicOfTheAppsCodeWrapItsKind(t *testing.T) {
	failed := errors.New("failed")
	call := func(f func() error) (err error) {
		defer Wrap(&err, errCodec)
		return f()
	}
	if err := call(func() error { return nil }); err != nil {
		t.Errorf("got %v of what succeeds", err)
	}
	if err := call(func() error { return failed }); !errors.Is(err, errCodec) || !errors.Is(err, failed) {
		t.Errorf("got %v", err)
	}
	if err := call(func() error { panic("oh") }); !errors.Is(err, errCodec) || !strings.Contains(err.Error(), "oh") {
		t.Errorf("got %v of a panic", err)
	}
}

func TestMergeOfBytesFailsWithWhatCannotBeDecodedOrEncoded(t *testing.T) {
	decode := func(value []byte) (map[string]any, error) {
		if string(value) == "bad" {
			return nil, errCodec
		}
		return map[string]any{string(value): 1}, nil
	}
	encode := func(all map[string]any) ([]byte, error) {
		if len(all) == 0 {
			return nil, errCodec
		}
		names := ""
		for name := range all {
			names += name
		}
		return []byte(names), nil
	}
	for _, test := range []struct {
		into, from string
		take       bool
		want       string // empty: an error
	}{{"a", "b", true, "b"}, {"a", "b", false, "a"}, {"", "b", true, "b"}, {"bad", "b", true, ""}, {"a", "bad", true, ""}, {"", "b", false, ""}} {
		var into []byte
		if test.into != "" {
			into = []byte(test.into)
		}
		got, err := Merge(into, []byte(test.from), func(string) bool { return test.take }, decode, encode)
		if string(got) != test.want || errors.Is(err, errCodec) != (test.want == "") {
			t.Errorf("%+v: got %q, %v", test, got, err)
		}
	}
}

func TestAnErrorForTheAppNamesWhoDidWhatAndNotTheSession(t *testing.T) {
	if Describe("store", "save session", "id", nil) != nil {
		t.Error("there is an error where there was none")
	}
	err := Describe("store", "save session", HashedPrefix+"secret", tier.ErrNotSaved)
	if !errors.Is(err, tier.ErrNotSaved) || !strings.HasPrefix(err.Error(), "store: save session #") || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
}
