package gae_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/appengine/v2"
	"google.golang.org/appengine/v2/datastore"
	"google.golang.org/appengine/v2/memcache"
	"google.golang.org/protobuf/protoadapt"

	"github.com/gaesession/gaesession/internal/gae"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
	"github.com/gaesession/gaesession/tier"
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
	value := make([]byte, 2<<20)
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

func TestAFailureBeforeTheCommitSaysThatNothingWasWritten(t *testing.T) {
	gaetest.OnEach(t, func(t *testing.T, s *gaetest.Service) {
		r := tier.Record{Value: []byte("1"), Expires: time.Now().Add(time.Hour)}
		if err := backup.Put(s.Context(), "id", r); err != nil {
			t.Fatal(err)
		}
		there, err := backup.Get(s.Context(), "id")
		if err != nil {
			t.Fatal(err)
		}
		next := &tier.Record{Value: []byte("2"), Expires: r.Expires}
		failed := errors.New("made to fail")
		for method, want := range map[string]bool{"BeginTransaction": true, "Get": true, "Put": true, "Commit": false} {
			for name, update := range map[string]struct {
				ids   []string
				guess *tier.Guess
			}{
				"without a guess":    {[]string{"id"}, nil},
				"with a right guess": {[]string{"id"}, &tier.Guess{Token: there.Token, Next: next}},
				"with a wrong guess": {[]string{"id"}, &tier.Guess{Next: next}},
				"of two records":     {[]string{"id", "other"}, nil},
			} {
				ctx := appengine.WithAPICallFunc(s.Context(), func(ctx context.Context, service, m string, in, out protoadapt.MessageV1) error {
					if m == method {
						return failed
					}
					return appengine.APICall(ctx, service, m, in, out)
				})
				err := backup.Update(ctx, update.ids, update.guess, replacing(next))
				if !errors.Is(err, failed) || errors.Is(err, tier.ErrNotWritten) != want {
					t.Errorf("%s fails in an update %s: got %v, want the failure, and ErrNotWritten: %t", method, name, err, want)
				}
			}
		}
	})
}
