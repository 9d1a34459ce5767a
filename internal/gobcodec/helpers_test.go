package gobcodec

import (
	"bytes"
	"encoding/gob"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/icza/session"
	"google.golang.org/appengine/v2/memcache"
)

type (
	cart struct {
		Owner string
		Items []item
		Notes map[string]any
	}
	item struct {
		Name  string
		Price float64
		Extra any
	}
	userID  int
	roles   []string
	matrix  [2][2]int
	secret  struct{ text string } // encodes itself
	unknown struct{ A int }       // not registered
)

func (s secret) GobEncode() ([]byte, error) { return []byte(s.text), nil }

func (s *secret) GobDecode(b []byte) error {
	if len(b) > 0 && b[0] == '!' {
		return errors.New("secret: refused")
	}
	s.text = string(b)
	return nil
}

func init() {
	for _, v := range []any{cart{}, item{}, userID(0), roles{}, matrix{}, secret{}, time.Time{}, time.Duration(0),
		map[string]any{}, []any{}, map[string]int{}, map[int]cart{}, &struct{ P *int }{}} {
		gob.Register(v)
	}
}

func sessionWith(attrs map[string]any) session.Session {
	return session.NewSessionOptions(&session.SessOptions{Attrs: attrs})
}

// fourScalars is the session of the time budgets.
func fourScalars() session.Session {
	return sessionWith(map[string]any{"user": "alice@example.com", "visits": 42, "theme": "dark", "cart": 7})
}

// plainBytes is what plain gob stores for v.
func plainBytes(t testing.TB, v any) []byte {
	t.Helper()
	data, err := memcache.Gob.Marshal(v)
	if err != nil {
		t.Fatalf("memcache.Gob.Marshal: %v", err)
	}
	return data
}

// plainSession is what plain gob reads from data.
func plainSession(data []byte) (session.Session, error) {
	s := session.NewSession()
	return s, memcache.Gob.Unmarshal(data, s)
}

// fields returns the exported fields of a session.
func fields(s session.Session) map[string]any {
	v := reflect.ValueOf(s).Elem()
	m := make(map[string]any)
	for i := 0; i < v.NumField(); i++ {
		if f := v.Type().Field(i); f.IsExported() {
			m[f.Name] = v.Field(i).Interface()
		}
	}
	return m
}

// alike compares values like reflect.DeepEqual, except that NaN is NaN.
func alike(a, b any) bool {
	return reflect.DeepEqual(a, b) || fmt.Sprintf("%#v", a) == fmt.Sprintf("%#v", b)
}

// wantSame checks that got has the fields of want.
func wantSame(t testing.TB, what string, got, want session.Session) {
	t.Helper()
	g, w := fields(got), fields(want)
	for name := range w {
		if !alike(g[name], w[name]) {
			t.Errorf("%s: %s: got %#v, want %#v", what, name, g[name], w[name])
		}
	}
	if got.Mutex() == nil {
		t.Errorf("%s: the session has no mutex", what)
	}
}

// errText is the text of an error that may be nil.
func errText(err error) string {
	if err == nil {
		return "no error"
	}
	return err.Error()
}

// agree checks that data is read as plain gob reads it, by new and by kept decoders and into a session of the caller.
// Where the walk refuses, plain gob has to fail, unless it would allocate at will, the walk is stricter by intent, or gob skips values.
func agree(t testing.TB, data []byte) {
	t.Helper()
	if _, err := inspect(data); err != nil {
		if !errors.Is(err, ErrMalformed) {
			t.Errorf("a refused stream: got %v, want ErrMalformed", err)
		}
		if !errors.Is(err, errCount) && !errors.Is(err, errStrange) && !skips(data) {
			if _, perr := plainSession(data); perr == nil {
				t.Errorf("refused (%v), but plain gob reads it: %x", err, data)
			}
		}
		if _, uerr := UnmarshalSession(data); errText(uerr) != errText(err) {
			t.Errorf("UnmarshalSession: got %v, want %v", uerr, err)
		}
		return
	}
	want, wantErr := plainSession(data)
	other, _ := plainSession(data)
	compare := func(what string, got session.Session, err error) {
		t.Helper()
		if errText(err) != errText(wantErr) {
			t.Fatalf("%s: got error %v, want %v; data %x", what, err, wantErr, data)
		}
		if err != nil {
			return
		}
		g, w, o := fields(got), fields(want), fields(other)
		for name := range w {
			// A field that is not in the data keeps what the new session had, which differs each time.
			if alike(w[name], o[name]) && !alike(g[name], w[name]) {
				t.Fatalf("%s: %s: got %#v, want %#v; data %x", what, name, g[name], w[name], data)
			}
		}
	}
	for _, what := range []string{"first", "second", "third"} {
		got, err := UnmarshalSession(data)
		compare(what, got, err)
		own := session.NewSession()
		err = Unmarshal(data, own)
		compare(what+" into own", own, err)
	}
}

// skips reports whether plain gob may skip values in data unseen: those of fields the reader does not have.
func skips(data []byte) bool {
	own, err := plainMarshal(session.NewSession())
	if err != nil {
		return true
	}
	at, err := valueOffset(own)
	if err != nil || !bytes.HasPrefix(data, own[:at]) {
		return true
	}
	types, err := readDefinitions(own[:at])
	if err != nil {
		return true
	}
	w := walker{rest: data[at:], prefix: types}
	if w.nextMessage() != nil {
		return false
	}
	id, err := w.typeID()
	if err != nil {
		return false
	}
	_ = w.topValue(id) // how far it comes
	return w.inner != nil
}
