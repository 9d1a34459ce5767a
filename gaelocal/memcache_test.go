package gaelocal_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"google.golang.org/appengine/v2/memcache"

	"github.com/gaesession/gaesession/gaelocal"
)

func TestMemcacheEvictsWhatWasUsedLeastRecently(t *testing.T) {
	_, ctx := startLocal(t, gaelocal.Options{MemcacheSize: 1000})
	for i := range 9 {
		noError(t, memcache.Set(ctx, &memcache.Item{Key: fmt.Sprint(i), Value: bytes.Repeat([]byte("v"), 99)}))
	}
	_, err := memcache.Get(ctx, "0") // makes 1 the oldest
	noError(t, err)
	for i := 9; i < 11; i++ {
		noError(t, memcache.Set(ctx, &memcache.Item{Key: string(rune('a' + i)), Value: bytes.Repeat([]byte("v"), 99)}))
	}
	var here []string
	for _, key := range []string{"0", "1", "2", "3", "8", "j", "k"} {
		if _, err := memcache.Get(ctx, key); err == nil {
			here = append(here, key)
		}
	}
	if got, want := strings.Join(here, " "), "0 2 3 8 j k"; got != want {
		t.Errorf("left are %s, want %s", got, want)
	}
	stats, err := memcache.Stats(ctx)
	noError(t, err)
	if stats.Items != 10 || stats.Bytes != 1000 {
		t.Errorf("%d items of %d bytes, want 10 of 1000", stats.Items, stats.Bytes)
	}
}

func TestEvictingAndFlushing(t *testing.T) {
	s, ctx := startLocal(t, gaelocal.Options{})
	noError(t, memcache.Set(ctx, &memcache.Item{Key: "k", Value: []byte("v")}))
	if s.EvictMemcache("other", "k") || !s.EvictMemcache("", "k") || s.EvictMemcache("", "k") {
		t.Error("EvictMemcache does not report whether the item was there")
	}
	noError(t, memcache.Set(ctx, &memcache.Item{Key: "k", Value: []byte("v")}))
	s.FlushMemcache()
	if _, err := memcache.Get(ctx, "k"); !errors.Is(err, memcache.ErrCacheMiss) {
		t.Errorf("Get after the flush: %v, want a cache miss", err)
	}
}

func TestMemcacheRefusesWhatIsTooLarge(t *testing.T) {
	_, ctx := startLocal(t, gaelocal.Options{})
	long := strings.Repeat("k", 251)
	wantError(t, memcache.Set(ctx, &memcache.Item{Key: long, Value: []byte("v")}), "INVALID_VALUE", "251")
	_, err := memcache.Get(ctx, long)
	wantError(t, err, "INVALID_VALUE", "251")
	const largest = 1<<20 - 250 - 73
	noError(t, memcache.Set(ctx, &memcache.Item{Key: long[1:], Value: make([]byte, largest)}))
	wantError(t, memcache.Set(ctx, &memcache.Item{Key: "k", Value: make([]byte, largest+1)}), "INVALID_VALUE", "1048254")
}

func TestOfManyWhoSwapOneWins(t *testing.T) {
	_, ctx := startLocal(t, gaelocal.Options{})
	noError(t, memcache.Set(ctx, &memcache.Item{Key: "k", Value: []byte("v")}))
	const callers = 8
	items := make([]*memcache.Item, callers)
	for i := range items {
		item, err := memcache.Get(ctx, "k")
		noError(t, err)
		item.Value = []byte(fmt.Sprint(i))
		items[i] = item
	}
	errs := make([]error, callers)
	var wg sync.WaitGroup
	for i := range items {
		wg.Add(1)
		go func() {
			defer wg.Done()
			errs[i] = memcache.CompareAndSwap(ctx, items[i])
		}()
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else if !errors.Is(err, memcache.ErrCASConflict) {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d swaps succeeded, want 1", won)
	}
}
