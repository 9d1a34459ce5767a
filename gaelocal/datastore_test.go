package gaelocal_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/appengine/v2/datastore"

	"github.com/gaesession/gaesession/gaelocal"
)

type counter struct{ N int }

func putCounter(t testing.TB, ctx context.Context, key *datastore.Key, n int) {
	t.Helper()
	_, err := datastore.Put(ctx, key, &counter{n})
	noError(t, err)
}

func getCounter(t testing.TB, ctx context.Context, key *datastore.Key) int {
	t.Helper()
	var c counter
	noError(t, datastore.Get(ctx, key, &c))
	return c.N
}

func TestAnEntityAboveTheLimitIsTooBig(t *testing.T) {
	_, ctx := startLocal(t, gaelocal.Options{})
	key := datastore.NewKey(ctx, "K", "n", 0, nil)
	half := make([]byte, 600<<10)
	_, err := datastore.Put(ctx, key, &datastore.PropertyList{
		{Name: "a", Value: half, NoIndex: true}, {Name: "b", Value: half, NoIndex: true},
	})
	wantError(t, err, "BAD_REQUEST", "entity is too big")
	if err := datastore.Get(ctx, key, &datastore.PropertyList{}); err != datastore.ErrNoSuchEntity {
		t.Errorf("Get after the refused put: %v, want no such entity", err)
	}
}

func TestATransactionDoesNotSeeItsWritesNorThoseOfOthers(t *testing.T) {
	_, ctx := startLocal(t, gaelocal.Options{})
	root := datastore.NewKey(ctx, "K", "root", 0, nil)
	child := datastore.NewKey(ctx, "K", "child", 0, root)
	putCounter(t, ctx, root, 1)
	putCounter(t, ctx, child, 1)
	err := datastore.RunInTransaction(ctx, func(tx context.Context) error {
		getCounter(t, tx, root)
		putCounter(t, tx, root, 2)
		putCounter(t, ctx, child, 3)
		if got := getCounter(t, tx, root) + getCounter(t, tx, child); got != 2 {
			t.Errorf("the transaction sees a sum of %d, want 2 as when it began", got)
		}
		return nil
	}, &datastore.TransactionOptions{Attempts: 1})
	if err != datastore.ErrConcurrentTransaction {
		t.Errorf("commit after a put by somebody else: %v, want a concurrent transaction", err)
	}
	if got := getCounter(t, ctx, root); got != 1 {
		t.Errorf("the refused transaction left %d, want 1", got)
	}
}

func TestADeletedGroupConflictsEvenWhenItIsPutBack(t *testing.T) {
	_, ctx := startLocal(t, gaelocal.Options{})
	key := datastore.NewKey(ctx, "K", "n", 0, nil)
	for _, before := range []bool{true, false} {
		if before {
			putCounter(t, ctx, key, 1)
		} else {
			noError(t, datastore.Delete(ctx, key))
		}
		err := datastore.RunInTransaction(ctx, func(tx context.Context) error {
			if err := datastore.Get(tx, key, &counter{}); err != nil && err != datastore.ErrNoSuchEntity {
				return err
			}
			noError(t, datastore.Delete(ctx, key))
			putCounter(t, ctx, key, 1)
			if !before {
				noError(t, datastore.Delete(ctx, key))
			}
			putCounter(t, tx, key, 2)
			return nil
		}, &datastore.TransactionOptions{Attempts: 1})
		if err != datastore.ErrConcurrentTransaction {
			t.Errorf("there before %v: %v, want a concurrent transaction", before, err)
		}
	}
}

func TestNoIncrementInATransactionIsLost(t *testing.T) {
	for _, data := range []string{"", "file"} {
		t.Run("data "+data, func(t *testing.T) {
			o := gaelocal.Options{}
			if data != "" {
				o.Data = dataFile(t)
			}
			_, ctx := startLocal(t, o)
			key := datastore.NewKey(ctx, "K", "n", 0, nil)
			putCounter(t, ctx, key, 0)
			var wg sync.WaitGroup
			for range 8 {
				wg.Add(1)
				go func() {
					defer wg.Done()
					for range 5 {
						err := datastore.RunInTransaction(ctx, func(tx context.Context) error {
							var c counter
							if err := datastore.Get(tx, key, &c); err != nil {
								return err
							}
							c.N++
							_, err := datastore.Put(tx, key, &c)
							return err
						}, &datastore.TransactionOptions{Attempts: 1000})
						if err != nil {
							t.Error(err)
						}
					}
				}()
			}
			wg.Wait()
			if got := getCounter(t, ctx, key); got != 40 {
				t.Errorf("after 40 increments the counter is %d", got)
			}
		})
	}
}

// TestFirstReadOfATransactionMeetsNoConflict reads a single group while others
// change it: whatever comes after the read is for the commit to find.
func TestFirstReadOfATransactionMeetsNoConflict(t *testing.T) {
	_, ctx := startLocal(t, gaelocal.Options{})
	key := datastore.NewKey(ctx, "K", "n", 0, nil)
	putCounter(t, ctx, key, 0)
	stop := make(chan struct{})
	var writers, readers sync.WaitGroup
	for range 4 {
		writers.Add(1)
		go func() {
			defer writers.Done()
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := datastore.Put(ctx, key, &counter{1}); err != nil {
					t.Error(err)
					return
				}
			}
		}()
		readers.Add(1)
		go func() {
			defer readers.Done()
			for range 200 {
				var c counter
				err := datastore.RunInTransaction(ctx, func(tx context.Context) error {
					return datastore.Get(tx, key, &c)
				}, &datastore.TransactionOptions{Attempts: 1})
				if err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	readers.Wait()
	close(stop)
	writers.Wait()
}

// TestPagesOfAQueryAreThoseOfASortedList compares queries with what a sorted
// list says, while entities come, change and go.
func TestPagesOfAQueryAreThoseOfASortedList(t *testing.T) {
	_, ctx := startLocal(t, gaelocal.Options{})
	random := rand.New(rand.NewSource(1))
	kept := map[string]int{}
	key := func(name string) *datastore.Key { return datastore.NewKey(ctx, "K", name, 0, nil) }
	for round := range 30 {
		var keys []*datastore.Key
		var values []counter
		for range 200 {
			name, n := fmt.Sprintf("%04d", random.Intn(3000)), random.Intn(50)
			if _, ok := kept[name]; slices.ContainsFunc(keys, func(k *datastore.Key) bool { return k.StringID() == name }) || ok && random.Intn(2) == 0 {
				continue
			}
			kept[name] = n
			keys, values = append(keys, key(name)), append(values, counter{n})
		}
		_, err := datastore.PutMulti(ctx, keys, values)
		noError(t, err)
		keys = nil
		for name := range kept {
			if random.Intn(20) == 0 {
				delete(kept, name)
				keys = append(keys, key(name))
			}
		}
		noError(t, datastore.DeleteMulti(ctx, keys))

		low, down := random.Intn(50), round%2 == 1
		got, want := pagesFrom(t, ctx, low, down), listFrom(kept, low, down)
		if !slices.Equal(got, want) {
			t.Fatalf("round %d: %d results %v, want %d %v", round, len(got), got, len(want), want)
		}
	}
}

// listFrom is what pagesFrom is to return.
func listFrom(kept map[string]int, low int, down bool) []string {
	var list []string
	for name, n := range kept {
		if n >= low {
			list = append(list, fmt.Sprintf("%02d %s", n, name))
		}
	}
	slices.SortFunc(list, func(a, b string) int {
		c := strings.Compare(a[:2], b[:2])
		if down {
			c = -c
		}
		return cmp.Or(c, strings.Compare(a, b))
	})
	return list
}

// pagesFrom reads the counters from low on, page by page, in order of their
// values.
func pagesFrom(t *testing.T, ctx context.Context, low int, down bool) (list []string) {
	t.Helper()
	by := "N"
	if down {
		by = "-N"
	}
	q := datastore.NewQuery("K").Filter("N >=", low).Order(by).Limit(70)
	for page := q; ; {
		it, n := page.Run(ctx), 0
		for {
			var c counter
			k, err := it.Next(&c)
			if err == datastore.Done {
				break
			}
			noError(t, err)
			list = append(list, fmt.Sprintf("%02d %s", c.N, k.StringID()))
			n++
		}
		if n == 0 {
			return list
		}
		cursor, err := it.Cursor()
		noError(t, err)
		page = q.Start(cursor)
	}
}

// A purge reads a kind of many entities page by page, and deletes what it
// reads.
func TestAPurgeOfManyEntitiesIsQuick(t *testing.T) {
	n := 20000
	if testing.Short() {
		n = 2000
	}
	_, ctx := startLocal(t, gaelocal.Options{})
	now := time.Now().Truncate(time.Second)
	for from := 0; from < n; from += 500 {
		var keys []*datastore.Key
		var values []keptEntity
		for i := from; i < from+500; i++ {
			keys = append(keys, datastore.NewKey(ctx, "sess_", fmt.Sprint(i*7919%n), 0, nil))
			values = append(values, keptEntity{now.Add(-time.Duration(i) * time.Second), []byte("value")})
		}
		_, err := datastore.PutMulti(ctx, keys, values)
		noError(t, err)
	}
	begun := time.Now()
	q := datastore.NewQuery("sess_").Filter("exp <", now.Add(time.Second)).Order("exp").KeysOnly()
	deleted := 0
	for page := q.Limit(500); ; {
		it := page.Run(ctx)
		var keys []*datastore.Key
		for {
			key, err := it.Next(nil)
			if err == datastore.Done {
				break
			}
			noError(t, err)
			keys = append(keys, key)
		}
		if len(keys) == 0 {
			break
		}
		cursor, err := it.Cursor()
		noError(t, err)
		noError(t, datastore.DeleteMulti(ctx, keys))
		deleted += len(keys)
		page = q.Limit(500).Start(cursor)
	}
	if deleted != n {
		t.Errorf("purged %d entities, want %d", deleted, n)
	}
	t.Logf("purged %d entities in %v", deleted, time.Since(begun))
}

func TestAQueryReadToItsEndIsForgotten(t *testing.T) {
	s, ctx := startLocal(t, gaelocal.Options{})
	for i := range 5 {
		putCounter(t, ctx, datastore.NewKey(ctx, "K", "", int64(i+1), nil), i)
	}
	keys, err := datastore.NewQuery("K").BatchSize(2).KeysOnly().GetAll(ctx, nil)
	noError(t, err)
	if len(keys) != 5 {
		t.Errorf("%d keys, want 5", len(keys))
	}
	_, err = s.Call(ctx, "datastore_v3", "Next", "", []byte("\x0a\x14\x09\x01\x00\x00\x00\x00\x00\x00\x00\x12\x09dev~local"))
	if e := (*gaelocal.Error)(nil); !errors.As(err, &e) || !strings.Contains(e.Detail, "Cursor 1 not found") {
		t.Errorf("Next after the end: %v, want a cursor not found", err)
	}
}
