package gae_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/appengine/v2"
	"google.golang.org/appengine/v2/datastore"
	"google.golang.org/appengine/v2/memcache"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/gaesession/gaesession/internal/gae"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
	"github.com/gaesession/gaesession/tier"
	"github.com/gaesession/gaesession/tier/tiertest"
)

func TestMain(m *testing.M) { gaetest.Main(m) }

var backup = gae.Datastore{Kind: "sess_", Value: "val", Expires: "exp"}

// largest is the size of the largest value that fits.
func largest(fits func(id string, size int) bool, id string) int {
	size := 2 << 20
	for !fits(id, size) {
		size--
	}
	return size
}

// longest returns a context with the longest namespace, and the longest id.
func longest(t *testing.T, s *gaetest.Service) (ctx context.Context, id string) {
	t.Helper()
	ctx, err := appengine.Namespace(s.Context(), strings.Repeat("n", 100))
	if err != nil {
		t.Fatal(err)
	}
	return ctx, strings.Repeat("i", gae.MaxKeyLength)
}

func TestDatastoreTakesWhatFitsAndHardlyMore(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		ctx, id := longest(t, s)
		put := func(size int) error {
			return backup.Put(ctx, id, tier.Record{Value: bytes.Repeat([]byte{0xff}, size), Expires: time.Now()})
		}
		size := backup.MaxValue(id)
		if err := put(size); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
		if r, err := backup.Get(ctx, id); err != nil || r == nil || len(r.Value) != size {
			t.Errorf("%d bytes do not come back: %v", size, err)
		}
		// What is left is for an application's id, which may be longer than here.
		if put(size+64) == nil {
			t.Errorf("%d bytes: no error", size+64)
		}
	})
}

func TestMemcacheTakesWhatFitsAndNoMore(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		ctx, id := longest(t, s)
		set := func(size int) error {
			return gae.Memcache{}.Set(ctx, id, tier.Item{Value: bytes.Repeat([]byte{0xff}, size)}, time.Hour)
		}
		size := largest(gae.Memcache{}.Fits, id)
		if err := set(size); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
		if set(size+1) == nil {
			t.Errorf("%d bytes: no error", size+1)
		}
		if got := largest(gae.Memcache{MaxValue: 1000}.Fits, id); got != 1000 {
			t.Errorf("MaxValue 1000: %d bytes fit", got)
		}
	})
}

func TestWhatDoesNotFitIsErrTooLarge(t *testing.T) {
	ctx, id := longest(t, gaetest.Local(t))
	for _, size := range []int{1<<20 + 1, 2 << 20} { // not even called: the API may refuse the call
		value := make([]byte, size)
		ctx := intercept(ctx, func(method string, _ protoadapt.MessageV1, _ func() error) error {
			return fmt.Errorf("%s was called", method)
		})
		if err := backup.Put(ctx, id, tier.Record{Value: value, Expires: time.Now()}); !errors.Is(err, tier.ErrTooLarge) {
			t.Errorf("Datastore, %d bytes: got %v, want ErrTooLarge", size, err)
		}
		if err := (gae.Memcache{}).Set(ctx, id, tier.Item{Value: value}, time.Hour); !errors.Is(err, tier.ErrTooLarge) {
			t.Errorf("Memcache, %d bytes: got %v, want ErrTooLarge", size, err)
		}
	}
	// The services themselves refuse these, since the names count.
	value := make([]byte, 1<<20-10)
	if err := backup.Put(ctx, id, tier.Record{Value: value, Expires: time.Now()}); !errors.Is(err, tier.ErrTooLarge) {
		t.Errorf("Datastore: got %v, want ErrTooLarge", err)
	}
	if err := (gae.Memcache{}).Set(ctx, id, tier.Item{Value: value}, time.Hour); !errors.Is(err, tier.ErrTooLarge) {
		t.Errorf("Memcache: got %v, want ErrTooLarge", err)
	}
}

func TestEntitiesWithAnIndexedValueAreReadAndOthersAreErrors(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		ctx := s.Context()
		now := time.Now().Truncate(time.Microsecond)
		value := func(v any) datastore.Property { return datastore.Property{Name: "val", Value: v} }
		expires := datastore.Property{Name: "exp", Value: now}
		for name, test := range map[string]struct {
			properties datastore.PropertyList
			ok         bool
		}{
			"indexed":            {datastore.PropertyList{value(datastore.ByteString("v")), expires}, true},
			"with another one":   {datastore.PropertyList{value(datastore.ByteString("v")), expires, {Name: "more", Value: int64(1)}}, true},
			"a text":             {datastore.PropertyList{value("v"), expires}, false},
			"without value":      {datastore.PropertyList{expires}, false},
			"without expiry":     {datastore.PropertyList{value(datastore.ByteString("v"))}, false},
			"a number as expiry": {datastore.PropertyList{value(datastore.ByteString("v")), {Name: "exp", Value: int64(1)}}, false},
		} {
			if _, err := datastore.Put(ctx, datastore.NewKey(ctx, "sess_", name, 0, nil), &test.properties); err != nil {
				t.Fatal(err)
			}
			r, err := backup.Get(ctx, name)
			switch {
			case !test.ok && err == nil:
				t.Errorf("%s: got %v, want an error", name, r)
			case test.ok && (err != nil || r == nil || string(r.Value) != "v" || !r.Expires.Equal(now)):
				t.Errorf("%s: got %v, %v", name, r, err)
			}
		}
	})
}

func TestAnItemWithNoTimeToLiveIsNotKept(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		for _, ttl := range []time.Duration{0, -time.Nanosecond, -time.Hour} {
			if err := (gae.Memcache{}).Set(s.Context(), "id", tier.Item{Value: []byte("v")}, ttl); err != nil {
				t.Error(err)
			}
			if it, err := (gae.Memcache{}).Get(s.Context(), "id"); err != nil || it != nil {
				t.Errorf("%v: got %v, %v; want no item", ttl, it, err)
			}
		}
		// A part of a second and more than 30 days are kept.
		for _, ttl := range []time.Duration{time.Millisecond, 1000 * 24 * time.Hour} {
			if err := (gae.Memcache{}).Set(s.Context(), "id", tier.Item{Value: []byte("v")}, ttl); err != nil {
				t.Error(err)
			}
			if it, err := (gae.Memcache{}).Get(s.Context(), "id"); err != nil || it == nil {
				t.Errorf("%v: got %v, %v; want the item", ttl, it, err)
			}
		}
	})
}

func TestCompareAndSwapTellsWhatIsThere(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		ctx, m := s.Context(), gae.Memcache{Prefix: "p."}
		set := func(value string) {
			t.Helper()
			if err := m.Set(ctx, "id", tier.Item{Value: []byte(value)}, time.Hour); err != nil {
				t.Fatal(err)
			}
		}
		remove := func() {
			t.Helper()
			if err := memcache.Delete(ctx, "p.id"); err != nil {
				t.Fatal(err)
			}
		}
		for name, test := range map[string]struct {
			meanwhile func()
			want      tier.Outcome
			there     string // afterwards; empty: nothing
		}{
			"the same":       {func() {}, tier.Stored, "mine"},
			"another value":  {func() { set("theirs") }, tier.Conflict, "theirs"},
			"the same again": {func() { set("old") }, tier.Conflict, "old"},
			"nothing":        {remove, tier.Absent, ""},
			"a new one":      {func() { remove(); set("theirs") }, tier.Conflict, "theirs"},
		} {
			set("old")
			old, err := m.Get(ctx, "id")
			if err != nil || old == nil {
				t.Fatalf("%s: got %v, %v", name, old, err)
			}
			test.meanwhile()
			mine := tier.Item{Flags: 3, Value: []byte("mine")}
			if got, err := m.CompareAndSwap(ctx, "id", old, mine, time.Hour); got != test.want || err != nil {
				t.Errorf("%s: got %v, %v; want %v", name, got, err, test.want)
			}
			it, err := m.Get(ctx, "id")
			if err != nil || (it != nil) != (test.there != "") || it != nil && string(it.Value) != test.there {
				t.Errorf("%s: %v is there, %v; want %q", name, it, err, test.there)
			}
			if test.want == tier.Stored && (it == nil || it.Flags != 3) {
				t.Errorf("%s: got %v, want flags 3", name, it)
			}
		}
		if _, err := m.CompareAndSwap(ctx, "id", &tier.Item{}, tier.Item{}, time.Hour); err == nil {
			t.Error("without a token: no error")
		}
	})
}

// replacing replaces each record by r.
func replacing(r *tier.Record) func([]*tier.Record) ([]*tier.Record, error) {
	return func(current []*tier.Record) ([]*tier.Record, error) {
		return slices.Repeat([]*tier.Record{r}, len(current)), nil
	}
}

// intercept returns a context whose calls are made by f.
func intercept(ctx context.Context, f func(method string, in protoadapt.MessageV1, call func() error) error) context.Context {
	return appengine.WithAPICallFunc(ctx, func(ctx context.Context, service, method string, in, out protoadapt.MessageV1) error {
		return f(method, in, func() error { return appengine.APICall(ctx, service, method, in, out) })
	})
}

func TestAFailureBeforeTheCommitSaysThatNothingWasWritten(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		there := put(t, s.Context(), "id", tier.Record{Value: []byte("1"), Expires: inAnHour()})
		next := &tier.Record{Value: []byte("2"), Expires: inAnHour()}
		failed := errors.New("made to fail")
		unreachable := errors.New(`service bridge HTTP failed: Post "http://127.0.0.1:1/rpc_http": dial tcp 127.0.0.1:1: connect: connection refused`)
		for _, test := range []struct {
			method string
			err    error
			want   bool
		}{
			{"BeginTransaction", failed, true}, {"Get", failed, true}, {"Put", failed, true},
			{"Commit", failed, false}, {"Commit", unreachable, true},
		} {
			for name, update := range map[string]struct {
				ids   []string
				guess *tier.Guess
			}{
				"without a guess":    {[]string{"id"}, nil},
				"with a right guess": {[]string{"id"}, &tier.Guess{Token: there.Token, Next: next}},
				"with a wrong guess": {[]string{"id"}, &tier.Guess{Next: next}},
				"of two records":     {[]string{"id", "other"}, nil},
			} {
				ctx := intercept(s.Context(), func(method string, _ protoadapt.MessageV1, call func() error) error {
					if method == test.method {
						return test.err
					}
					return call()
				})
				err := backup.Update(ctx, update.ids, update.guess, replacing(next))
				if !errors.Is(err, test.err) || errors.Is(err, tier.ErrNotWritten) != test.want {
					t.Errorf("%s fails in an update %s: got %v, want the failure, and ErrNotWritten: %t", test.method, name, err, test.want)
				}
			}
		}
	})
}

func inAnHour() time.Time { return time.Now().Add(time.Hour).Truncate(time.Microsecond) }

// put puts a record, and returns it as it is read.
func put(t *testing.T, ctx context.Context, id string, r tier.Record) *tier.Record {
	t.Helper()
	if err := backup.Put(ctx, id, r); err != nil {
		t.Fatal(err)
	}
	there, err := backup.Get(ctx, id)
	if err != nil || there == nil {
		t.Fatalf("got %v, %v", there, err)
	}
	return there
}

// backupOn and cacheOn are services that the contexts of their calls do not name.
type (
	backupOn struct {
		gae.Datastore
		values context.Context
	}
	cacheOn struct {
		gae.Memcache
		values context.Context
	}
)

func (b backupOn) Get(ctx context.Context, id string) (*tier.Record, error) {
	return b.Datastore.Get(joined{ctx, b.values}, id)
}

func (b backupOn) Put(ctx context.Context, id string, r tier.Record) error {
	return b.Datastore.Put(joined{ctx, b.values}, id, r)
}

func (b backupOn) Insert(ctx context.Context, id string, r tier.Record) error {
	return b.Datastore.Insert(joined{ctx, b.values}, id, r)
}

func (b backupOn) Update(ctx context.Context, ids []string, guess *tier.Guess, f func([]*tier.Record) ([]*tier.Record, error)) error {
	return b.Datastore.Update(joined{ctx, b.values}, ids, guess, f)
}

func (c cacheOn) Get(ctx context.Context, id string) (*tier.Item, error) {
	return c.Memcache.Get(joined{ctx, c.values}, id)
}

func (c cacheOn) Set(ctx context.Context, id string, it tier.Item, ttl time.Duration) error {
	return c.Memcache.Set(joined{ctx, c.values}, id, it, ttl)
}

func (c cacheOn) Add(ctx context.Context, id string, it tier.Item, ttl time.Duration) (bool, error) {
	return c.Memcache.Add(joined{ctx, c.values}, id, it, ttl)
}

func (c cacheOn) CompareAndSwap(ctx context.Context, id string, old *tier.Item, it tier.Item, ttl time.Duration) (tier.Outcome, error) {
	return c.Memcache.CompareAndSwap(joined{ctx, c.values}, id, old, it, ttl)
}

func TestDatastoreKeepsTheContract(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		tiertest.TestBackup(t, func(*testing.T) tier.Backup { return backupOn{backup, s.Context()} })
	})
}

func TestMemcacheKeepsTheContract(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		tiertest.TestCache(t, func(*testing.T) tier.Cache { return cacheOn{gae.Memcache{}, s.Context()} })
	})
}

// The calls of an update, and how many entities each has.
func TestAnUpdateMakesFewCalls(t *testing.T) {
	ctx := gaetest.Local(t).Context()
	there := put(t, ctx, "there", tier.Record{Value: []byte("there"), Expires: inAnHour()})
	next := func() *tier.Record { return &tier.Record{Value: []byte("next"), Expires: inAnHour()} }
	refused := errors.New("refused")
	for name, test := range map[string]struct {
		ids   []string
		guess *tier.Guess
		f     func([]*tier.Record) ([]*tier.Record, error)
		want  []string
	}{
		"of one record":      {[]string{"there"}, nil, replacing(next()), []string{"BeginTransaction", "Get 1", "Put 1", "Commit"}},
		"with a right guess": {[]string{"new"}, &tier.Guess{Next: next()}, nil, []string{"BeginTransaction", "Get 1", "Put 1", "Commit"}},
		"with a wrong guess": {[]string{"there"}, &tier.Guess{Next: next()}, replacing(next()), []string{"BeginTransaction", "Get 1", "Put 1", "Put 1", "Commit"}},
		"after a wrong guess that leaves the record": {
			[]string{"there"}, &tier.Guess{Next: next()}, replacing(nil), []string{"BeginTransaction", "Get 1", "Put 1", "Rollback"},
		},
		"that leaves the record": {[]string{"there"}, nil, replacing(nil), []string{"BeginTransaction", "Get 1", "Rollback"}},
		"that refuses": {
			[]string{"there", "other"}, nil,
			func([]*tier.Record) ([]*tier.Record, error) { return nil, refused }, []string{"BeginTransaction", "Get 2", "Rollback"},
		},
		"of three records": {[]string{"there", "a", "b"}, nil, replacing(next()), []string{"BeginTransaction", "Get 3", "Put 3", "Commit"}},
		"that leaves one of three": {
			[]string{"there", "a", "b"}, nil,
			func([]*tier.Record) ([]*tier.Record, error) { return []*tier.Record{next(), nil, next()}, nil },
			[]string{"BeginTransaction", "Get 3", "Put 2", "Commit"},
		},
	} {
		if err := backup.Put(ctx, "there", *there); err != nil {
			t.Fatal(err)
		}
		var (
			mu   sync.Mutex
			made []string
		)
		err := backup.Update(intercept(ctx, func(method string, in protoadapt.MessageV1, call func() error) error {
			fields := protoadapt.MessageV2Of(in).ProtoReflect()
			of := map[string]protoreflect.Name{"Get": "key", "Put": "entity"}[method]
			if field := fields.Descriptor().Fields().ByName(of); field != nil {
				method = fmt.Sprint(method, " ", fields.Get(field).List().Len())
			}
			mu.Lock()
			made = append(made, method)
			mu.Unlock()
			return call()
		}), test.ids, test.guess, test.f)
		if err != nil && err != refused {
			t.Errorf("an update %s: %v", name, err)
		}
		if test.guess != nil {
			slices.Sort(made[1:3]) // at the same time
		}
		if !slices.Equal(made, test.want) {
			t.Errorf("an update %s made the calls %q, want %q", name, made, test.want)
		}
	}
}

func TestAGuessIsPutWhileTheRecordIsRead(t *testing.T) {
	arrived := map[string]chan struct{}{"Get": make(chan struct{}), "Put": make(chan struct{})}
	other := map[string]string{"Get": "Put", "Put": "Get"}
	err := backup.Update(intercept(gaetest.Local(t).Context(), func(method string, _ protoadapt.MessageV1, call func() error) error {
		if here := arrived[method]; here != nil {
			close(here)
			select {
			case <-arrived[other[method]]:
			case <-time.After(10 * time.Second):
				return fmt.Errorf("%s is made alone", method)
			}
		}
		return call()
	}), []string{"id"}, &tier.Guess{Next: &tier.Record{Expires: inAnHour()}}, nil)
	if err != nil {
		t.Error(err)
	}
}

func TestTokensStandForTheContent(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		end := inAnHour()
		tokens := map[string]string{} // to what they stand for
		for name, r := range map[string]tier.Record{
			"a":                     {Value: []byte("a"), Expires: end},
			"b":                     {Value: []byte("b"), Expires: end},
			"nothing":               {Expires: end},
			"a, a microsecond more": {Value: []byte("a"), Expires: end.Add(time.Microsecond)},
			"a, before the epoch":   {Value: []byte("a"), Expires: time.UnixMicro(-1)},
		} {
			first := put(t, s.Context(), "first", r).Token
			if len(first) != 32 {
				t.Errorf("%s: a token of %d bytes", name, len(first))
			}
			if other, ok := tokens[string(first)]; ok {
				t.Errorf("%s has the token of %s", name, other)
			}
			tokens[string(first)] = name
			r.Expires = r.Expires.In(time.FixedZone("Z", 3600)).Add(999 * time.Nanosecond)
			if err := backup.Update(s.Context(), []string{"second"}, nil, replacing(&r)); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(first, r.Token) {
				t.Errorf("%s: the same content has the tokens %x and %x", name, first, r.Token)
			}
		}
	})
}

func TestOneRecordThatCannotBeReadFailsAnUpdateOfSeveral(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		ctx := s.Context()
		there := put(t, ctx, "there", tier.Record{Value: []byte("there"), Expires: inAnHour()})
		other := datastore.PropertyList{{Name: "val", Value: int64(1)}, {Name: "exp", Value: time.Now()}}
		if _, err := datastore.Put(ctx, datastore.NewKey(ctx, "sess_", "other", 0, nil), &other); err != nil {
			t.Fatal(err)
		}
		called := false
		err := backup.Update(ctx, []string{"missing", "other", "there"}, nil, func([]*tier.Record) ([]*tier.Record, error) {
			called = true
			return nil, nil
		})
		if !errors.Is(err, tier.ErrRejected) || !errors.Is(err, tier.ErrNotWritten) || called {
			t.Errorf("got %v, and f was called: %t; want ErrRejected and ErrNotWritten", err, called)
		}
		if got, err := backup.Get(ctx, "there"); err != nil || !bytes.Equal(got.Token, there.Token) {
			t.Errorf("got %v, %v", got, err)
		}
	})
}

func TestAnUpdateThatNobodyUnderstandsIsAnError(t *testing.T) {
	ctx := gaetest.Local(t).Context()
	next := &tier.Record{Value: []byte("v"), Expires: inAnHour()}
	for name, update := range map[string]func() error{
		"a guess for two records": func() error { return backup.Update(ctx, []string{"a", "b"}, &tier.Guess{Next: next}, replacing(next)) },
		"a guess of nothing":      func() error { return backup.Update(ctx, []string{"a"}, &tier.Guess{}, replacing(next)) },
		"too few records": func() error {
			return backup.Update(ctx, []string{"a", "b"}, nil, func([]*tier.Record) ([]*tier.Record, error) { return []*tier.Record{next}, nil })
		},
		"too many records": func() error {
			return backup.Update(ctx, []string{"a"}, nil, func([]*tier.Record) ([]*tier.Record, error) { return []*tier.Record{next, next}, nil })
		},
	} {
		if err := update(); !errors.Is(err, tier.ErrNotWritten) {
			t.Errorf("%s: got %v, want ErrNotWritten", name, err)
		}
		if r, err := backup.Get(ctx, "a"); r != nil || err != nil {
			t.Errorf("%s: got %v, %v; want nothing", name, r, err)
		}
	}
}

func TestNamesThatDatastoreReservesAreTakenAndMeetNoOther(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		for prefix, ids := range map[string][]string{
			"": {
				"____", "__x__", "__x__..", "__x___", "__x_", "_x__", "__x", "x__", "_", "__", "___", "__..", "__x._", ".__x__", "__.__", "__x__x", "__x__._",
				"__abcdefghijklmnopqrst__", "__" + strings.Repeat("x", 1495) + "__",
			},
			"__sess.": {"x__", "x__..", "x", "__", "__..", "_", "."},
			"sess.":   {"__x__", "__x__.", "__x__..", "x__"},
		} {
			b := backup
			b.Prefix = prefix
			for i, id := range ids {
				if !b.ValidID(id) {
					t.Errorf("%q is refused with prefix %q", id, prefix)
				} else if err := b.Put(s.Context(), id, tier.Record{Value: fmt.Append(nil, prefix, i), Expires: inAnHour()}); err != nil {
					t.Errorf("put %q with prefix %q: %v", id, prefix, err)
				}
			}
			for i, id := range ids {
				r, err := b.Get(s.Context(), id)
				if err != nil || r == nil || string(r.Value) != fmt.Sprint(prefix, i) {
					t.Errorf("%q with prefix %q: got %v, %v; want what was put there", id, prefix, r, err)
				}
			}
		}
		// A visitor may send the escaped name, as an id.
		for prefix, ids := range map[string][]string{
			"":        {"__x__.", "____.", "__" + strings.Repeat("x", 1496) + "__", "", "\x00", "\xff", strings.Repeat("x", 1501)},
			"__sess.": {"x__.", "__."},
		} {
			b := backup
			b.Prefix = prefix
			for _, id := range ids {
				if b.ValidID(id) {
					t.Errorf("%q is taken with prefix %q", id, prefix)
				}
			}
		}
	})
}

// Earlier versions share the others, and other APIs all of them.
func TestOnlyReservedNamesAreEscaped(t *testing.T) {
	ctx := gaetest.Local(t).Context()
	for _, test := range []struct{ prefix, id, want string }{
		{"", "x", "x"}, {"", "__x__x", "__x__x"}, {"", "___", "___"}, {"", "x.", "x."}, {"", "é", "é"}, {"", "..", ".."}, {"", "/", "/"},
		{"sess.", "__x__", "sess.__x__"}, {"sess.", "__x__.", "sess.__x__."},
		{"", "__x__", "__x__."}, {"", "____", "____."}, {"__sess.", "x__", "__sess.x__."},
	} {
		b := backup
		b.Prefix = test.prefix
		if err := b.Put(ctx, test.id, tier.Record{Value: []byte("v"), Expires: inAnHour()}); err != nil {
			t.Fatal(err)
		}
		var e datastore.PropertyList
		if err := datastore.Get(ctx, datastore.NewKey(ctx, "sess_", test.want, 0, nil), &e); err != nil {
			t.Errorf("%q with prefix %q, looked for as %q: %v", test.id, test.prefix, test.want, err)
		}
	}
}

func TestAServiceThatCannotBeReachedIsErrUnreachable(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host, port, err := net.SplitHostPort(listener.Addr().String())
	if err == nil {
		err = listener.Close() // nobody listens there
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("API_HOST", host)
	t.Setenv("API_PORT", port)
	ctx := gaetest.Local(t).Context()
	for name, call := range map[string]func(context.Context) error{
		"memcache": get, "load": load, "write": write,
		"update": func(ctx context.Context) error { return backup.Update(ctx, []string{"a", "b"}, nil, replacing(nil)) },
	} {
		if err := call(ctx); !errors.Is(err, tier.ErrUnreachable) || errors.Is(err, tier.ErrNotWritten) != (name == "update") {
			t.Errorf("%s: got %v, want ErrUnreachable", name, err)
		}
	}
}
