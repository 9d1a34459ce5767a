package gobcodec

import (
	"bytes"
	"errors"
	"runtime"
	"strings"
	"testing"
)

// withMapCount returns the bytes of a session with one attribute, its attribute map claiming n entries (three bytes).
func withMapCount(t testing.TB, key string, value any, n uint32) []byte {
	t.Helper()
	data := plainBytes(t, sessionWith(map[string]any{key: value}))
	at, err := valueOffset(data)
	if err != nil {
		t.Fatal(err)
	}
	entry := append([]byte{1, byte(len(key))}, key...)
	i := bytes.LastIndex(data, entry)
	if i < 0 {
		t.Fatal("no map entry found")
	}
	head, value2 := data[:at], data[at:]
	w := walker{rest: value2}
	if err := w.nextMessage(); err != nil {
		t.Fatal(err)
	}
	headLen := len(value2) - len(w.buf) - len(w.rest)
	body := append([]byte{}, data[at+headLen:i]...)
	body = append(body, 0xfc, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	body = append(body, data[i+1:]...)
	if len(body) > 255 {
		t.Fatal("too long for this helper")
	}
	return append(append(bytes.Clone(head), 0xff, byte(len(body))), body...)
}

func TestAClaimedMapSizeAllocatesNothing(t *testing.T) {
	for name, data := range map[string][]byte{
		"attributes":         withMapCount(t, "attr", "value", 1<<30),
		"a little more":      withMapCount(t, "attr", "value", 2),
		"fields of a struct": append([]byte{14, 0xff, 0x81, 3, 1, 0, 1, 0xf9, 1, 0, 0, 0, 0, 0, 0}, plainBytes(t, 1)...),
		"a map they hold":    withMapCount(t, "attr", map[string]any{"attr": 1}, 1<<24),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := UnmarshalSession(data)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: got %v, want ErrMalformed", name, err)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > 64<<10 {
			t.Errorf("%s: allocated %d bytes for %d", name, got, len(data))
		}
	}
}

func TestMemoryIsProportionalToTheData(t *testing.T) {
	// Maps inside maps, each claiming all the bytes that follow.
	inner := strings.Repeat("x", 1000)
	m := map[string]any{"s": inner}
	for i := 0; i < 200; i++ {
		m = map[string]any{"m": m}
	}
	data := plainBytes(t, sessionWith(m))
	for i := range data {
		if data[i] == 1 && i+2 < len(data) && data[i+1] == 1 && data[i+2] == 'm' {
			data[i] = 0x7f
		}
	}
	if _, err := UnmarshalSession(data); !errors.Is(err, ErrMalformed) {
		t.Errorf("got %v, want ErrMalformed", err)
	}
}

func TestValuesMayBeNestedDeeply(t *testing.T) {
	nested := func(levels int) []byte {
		var v any = "bottom"
		for i := 0; i < levels; i++ {
			v = map[string]any{"m": v}
		}
		return plainBytes(t, sessionWith(map[string]any{"m": v}))
	}
	agree(t, nested(1000))
	if _, err := UnmarshalSession(nested(1000)); err != nil {
		t.Errorf("1,000 levels: %v", err)
	}
	if _, err := UnmarshalSession(nested(6000)); !errors.Is(err, ErrMalformed) {
		t.Errorf("6,000 maps, 12,000 levels: got %v, want ErrMalformed", err)
	}
}

func TestDefinitionsGobDoesNotHaveAreLeftToGob(t *testing.T) {
	// A type definition with a field beyond those of today.
	data := append([]byte{6, 0xff, 0x81, 9, 1, 1, 0}, plainBytes(t, 1)...)
	if _, err := inspect(data); err != nil {
		t.Errorf("inspect: %v", err)
	}
	_, want := plainSession(data)
	if _, err := UnmarshalSession(data); errText(err) != errText(want) || err == nil {
		t.Errorf("got %v, want %v", err, want)
	}
}
