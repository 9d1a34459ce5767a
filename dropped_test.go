//go:build go1.24

package gaesession

import (
	"bytes"
	"context"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/icza/session"

	"github.com/gaesession/gaesession/tier/tiertest"
)

// Other tests drop stores as they like.
func init() { dropWasLogged.Store(true) }

// A notedLog is a log, and signals each record.
type notedLog struct {
	mu      sync.Mutex
	b       bytes.Buffer
	records chan struct{}
}

func (l *notedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer func() { l.records <- struct{}{} }()
	return l.b.Write(p)
}

// storeWith returns options of services in memory, which have a session.
func storeWith(t *testing.T) (o *MemcacheStoreOptions, id string) {
	backup := tiertest.NewBackup()
	backup.Limit = 1 << 20
	o = &MemcacheStoreOptions{Cache: tiertest.NewCache(), Backup: backup, OnError: func(_ context.Context, err error) { t.Log(err) }}
	sess := session.NewSessionOptions(&session.SessOptions{Attrs: map[string]any{"list": []string{"a"}}})
	store := newStore(context.Background(), o)
	store.Add(sess)
	store.Close()
	return o, sess.ID()
}

func TestAStoreWhoseChangesAreDroppedIsLoggedOnce(t *testing.T) {
	o, id := storeWith(t)
	log := &notedLog{records: make(chan struct{}, 10)}
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(log, nil)))
	defer slog.SetDefault(before)
	dropWasLogged.Store(false)
	defer dropWasLogged.Store(true)
	drop := func() { // as an app that has forgotten Close
		for range watchEvery {
			NewMemcacheStoreOptions(context.Background(), o).Get(id).SetAttr("n", 1)
		}
	}
	drop()
	for logged, tries := false, 0; !logged; tries++ {
		if tries > 1000 {
			t.Fatal("nothing was logged")
		}
		runtime.GC()
		select {
		case <-log.records:
			logged = true
		case <-time.After(10 * time.Millisecond):
		}
	}
	drop()
	runtime.GC()
	runtime.GC()
	log.mu.Lock()
	defer log.mu.Unlock()
	text := log.b.String()
	if strings.Count(text, "level=ERROR") != 1 || !strings.Contains(text, "Close") || strings.Contains(text, id) {
		t.Errorf("logged %s", text)
	}
}

func TestOnlyAStoreWithUnsavedChangesIsDropped(t *testing.T) {
	for name, c := range map[string]struct {
		use  func(store *memcacheStore, sess session.Session)
		want bool
	}{
		"read":               {func(*memcacheStore, session.Session) {}, false},
		"changed":            {func(_ *memcacheStore, sess session.Session) { sess.SetAttr("n", 1) }, true},
		"changed in place":   {func(_ *memcacheStore, sess session.Session) { sess.Attr("list").([]string)[0] = "b" }, true},
		"changed and closed": {func(store *memcacheStore, sess session.Session) { sess.SetAttr("n", 1); store.Close() }, false},
		"changed afterwards": {func(store *memcacheStore, sess session.Session) { store.Close(); sess.SetAttr("n", 1) }, true},
		"removed":            {func(store *memcacheStore, sess session.Session) { sess.SetAttr("n", 1); store.Remove(sess) }, false},
		"added":              {func(store *memcacheStore, _ session.Session) { store.Add(session.NewSession()) }, false}, // see unclosed,
		"added and closed":   {func(store *memcacheStore, _ session.Session) { store.Add(session.NewSession()); store.Close() }, false},
		"new id": {func(store *memcacheStore, sess session.Session) {
			if _, err := RegenerateID(store, sess); err != nil {
				panic(err)
			}
		}, true},
		"too large, and closed": {func(store *memcacheStore, sess session.Session) {
			sess.SetAttr("n", strings.Repeat("x", 2<<20))
			store.Close()
		}, false},
		"not encodable, and closed": {func(store *memcacheStore, sess session.Session) {
			sess.SetAttr("n", struct{ NotRegistered int }{1})
			store.Close()
		}, false},
	} {
		o, id := storeWith(t)
		store := newStore(context.Background(), o)
		c.use(store, store.Get(id))
		if got := store.hasUnsaved(); got != c.want {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
	if newStore(context.Background(), nil).hasUnsaved() {
		t.Error("a store that nobody has used has changes")
	}
}

func TestAWatchedStoreIsAStoreOfThisPackage(t *testing.T) {
	dropWasLogged.Store(false)
	defer dropWasLogged.Store(true)
	o, id := storeWith(t)
	stores.Store(0)
	watched := 0
	for range 2 * watchEvery {
		store := NewMemcacheStoreOptions(context.Background(), o)
		if _, ok := store.(*watchedStore); ok {
			watched++
		}
		sess, err := RegenerateID(store, store.Get(id))
		if err != nil {
			t.Fatal(err)
		}
		store.Close()
		id = sess.ID()
	}
	if watched != watchFirst+2 {
		t.Errorf("%d stores of %d are watched, want %d", watched, 2*watchEvery, watchFirst+2)
	}
}
