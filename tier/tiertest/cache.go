package tiertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gaesession/gaesession/tier"
)

const (
	// cachePatience is how long a call with an ended context may take.
	cachePatience = 15 * time.Second
	// cacheExpiry is when an item must be gone whose ttl is two seconds at most,
	// where a cache counts in whole seconds of its own clock.
	cacheExpiry = 4 * time.Second
	// cacheLong is the ttl of items that stay.
	cacheLong = time.Hour
)

// TestCache shows whether a Cache keeps its contract. It calls newCache for each
// of its parts, which run one after the other; all of them may get the same
// Cache, and share a service with others, since every part draws ids of its own.
// It leaves items there that end within an hour, 20 MB at most.
//
// A Cache may lose any item at any time; under the test it must not, so the
// service needs room and must not be restarted.
func TestCache(t *testing.T, newCache func(t *testing.T) tier.Cache) {
	for _, part := range []struct {
		name string
		test func(*cache)
	}{
		{"ItIsComparable", cacheComparable},
		{"NothingIsThere", cacheNothing},
		{"GetReturnsWhatWasSet", cacheRoundTrip},
		{"IdsAreToldApart", cacheIDs},
		{"SetReplaces", cacheSet},
		{"AddToNothing", cacheAdd},
		{"AddToAnItem", cacheAddToItem},
		{"OnlyOneOfManyAddsIsTheFirst", cacheAdds},
		{"SwapReplacesTheVersionRead", cacheSwap},
		{"SwapLooksAtTheTokenAlone", cacheSwapToken},
		{"SwapOfAnotherVersionIsAConflict", cacheConflict},
		{"SwapOfNothing", cacheAbsent},
		{"OnlyOneOfManySwapsOfAVersionIsMade", cacheSwaps},
		{"NoSwapIsLost", cacheCounter},
		{"NothingOlderIsShownAgain", cacheNewer},
		{"WithoutATTLNothingIsKept", cacheNoTTL},
		{"ItemsExpire", cacheExpires},
		{"WhatFitsIsKept", cacheFits},
		{"AnEndedContextEndsCalls", cacheEnded},
	} {
		t.Run(part.name, func(t *testing.T) {
			part.test(&cache{T: t, Cache: newCache(t), ctx: context.Background()})
		})
	}
}

// cache is a Cache under test.
type cache struct {
	*testing.T
	tier.Cache
	ctx context.Context
}

// item returns an item whose flags have all bits in use.
func item(value string) tier.Item { return tier.Item{Flags: 0xA5F00F5A, Value: []byte(value)} }

func describeItem(it *tier.Item) string {
	if it == nil {
		return "nothing"
	}
	value := it.Value
	if len(value) > 40 {
		value = value[:40]
	}
	return fmt.Sprintf("%d bytes %q with flags %#x", len(it.Value), value, it.Flags)
}

func (c *cache) get(id string) *tier.Item {
	c.Helper()
	it, err := c.Get(c.ctx, id)
	if err != nil {
		c.Fatalf("get: %v", err)
	}
	return it
}

// there is get where something must be there.
func (c *cache) there(id string) *tier.Item {
	c.Helper()
	it := c.get(id)
	if it == nil {
		c.Fatal("got nothing, although an item was stored")
	}
	return it
}

// wants fails unless want is what is there.
func (c *cache) wants(id string, want *tier.Item, when string) {
	c.Helper()
	got := c.get(id)
	if got == nil && want == nil {
		return
	}
	if got == nil || want == nil || got.Flags != want.Flags || !bytes.Equal(got.Value, want.Value) {
		c.Errorf("%s: got %s, want %s", when, describeItem(got), describeItem(want))
	}
}

func (c *cache) set(id string, it tier.Item, ttl time.Duration) {
	c.Helper()
	if err := c.Set(c.ctx, id, it, ttl); err != nil {
		c.Fatalf("set %s: %v", describeItem(&it), err)
	}
}

func (c *cache) add(id string, it tier.Item, ttl time.Duration, want bool, when string) {
	c.Helper()
	added, err := c.Add(c.ctx, id, it, ttl)
	if err != nil {
		c.Fatalf("%s: add: %v", when, err)
	}
	if added != want {
		c.Errorf("%s: add reports %t, want %t", when, added, want)
	}
}

func (c *cache) swap(id string, old *tier.Item, it tier.Item, ttl time.Duration, want tier.Outcome, when string) {
	c.Helper()
	got, err := c.CompareAndSwap(c.ctx, id, old, it, ttl)
	if err != nil {
		c.Fatalf("%s: compare-and-swap: %v", when, err)
	}
	if got != want {
		name := map[tier.Outcome]string{tier.Stored: "stored", tier.Conflict: "conflict", tier.Absent: "absent"}
		c.Errorf("%s: compare-and-swap answers %s, want %s", when, name[got], name[want])
	}
}

func cacheComparable(c *cache) {
	if !reflect.ValueOf(c.Cache).Comparable() {
		c.Errorf("a %T is not comparable", c.Cache)
	}
}

func cacheNothing(c *cache) {
	c.wants(newID(), nil, "of an id never used")
}

func cacheRoundTrip(c *cache) {
	everyByte := make([]byte, 256)
	for i := range everyByte {
		everyByte[i] = byte(i)
	}
	id := newID() // the same: every set takes the place of the one before
	for name, it := range map[string]tier.Item{
		"text":           item("text"),
		"every byte":     {Value: everyByte},
		"empty":          {Flags: 1, Value: []byte{}},
		"nil":            {Flags: 2},
		"zero bytes":     {Value: make([]byte, 3)},
		"lines":          {Value: []byte("\r\nEND\r\n")},
		"a number":       {Value: []byte("12")},
		"4 KB":           {Value: bytes.Repeat(everyByte, 16)},
		"all flags":      {Flags: 1<<32 - 1, Value: []byte("f")},
		"the first flag": {Flags: 1, Value: []byte("f")},
		"the last flag":  {Flags: 1 << 31, Value: []byte("f")},
		"no flag":        {Value: []byte("f")},
	} {
		c.set(id, it, cacheLong)
		c.wants(id, &it, name+", set")
		c.swap(id, c.there(id), it, cacheLong, tier.Stored, name)
		c.wants(id, &it, name+", swapped")
		added := newID()
		c.add(added, it, cacheLong, true, name)
		c.wants(added, &it, name+", added")
	}
}

func cacheIDs(c *cache) {
	base := newID()
	ids := []string{
		base, base + "x", strings.ToUpper(base), base + " ", " " + base, base + "\x00", base + "\x00x", base + "\n",
		base + "/a", base + ":a", "{" + base + "}", base + "é", base + "e\u0301", base + "\xff", base + "%41", base + "A", base + "*",
		strings.Repeat("l", 200) + base, strings.Repeat("l", 201) + base,
	}
	if !c.ValidID(base) {
		c.Fatalf("%d letters, digits and a hyphen are no valid id", len(base))
	}
	items := map[string]tier.Item{}
	for i, id := range ids {
		if !c.ValidID(id) {
			continue
		}
		it := item(strconv.Itoa(i))
		c.add(id, it, cacheLong, true, fmt.Sprintf("id %q", id))
		items[id] = it
	}
	for id, it := range items {
		c.wants(id, &it, fmt.Sprintf("id %q", id))
	}
}

func cacheSet(c *cache) {
	id := newID()
	for _, it := range []tier.Item{item("first"), item("a second, longer"), {Flags: 7, Value: []byte("third")}, {}} {
		c.set(id, it, cacheLong)
		c.wants(id, &it, "set again")
	}
}

func cacheAdd(c *cache) {
	id := newID()
	first := item("first")
	c.add(id, first, cacheLong, true, "never used")
	c.wants(id, &first, "added")

	c.set(id, item("x"), 0)
	second := item("second")
	c.add(id, second, cacheLong, true, "where something was")
	c.wants(id, &second, "added where something was")
}

func cacheAddToItem(c *cache) {
	for name, first := range map[string]tier.Item{"an item": item("first"), "an empty item": {}} {
		id := newID()
		c.set(id, first, cacheLong)
		before := c.there(id)
		for range 2 {
			c.add(id, item("second"), cacheLong, false, name)
		}
		c.add(id, first, cacheLong, false, name+", the same")
		c.wants(id, &first, name+", and others not added")
		c.swap(id, before, item("third"), cacheLong, tier.Stored, name+", and others not added")
	}
}

func cacheAdds(c *cache) {
	const rounds, adders = 10, 8
	for range rounds {
		id := newID()
		var added atomic.Int64
		var winner atomic.Value
		c.together(adders, func(n int) error {
			it := item(strconv.Itoa(n))
			ok, err := c.Add(c.ctx, id, it, cacheLong)
			if ok {
				added.Add(1)
				winner.Store(it)
			}
			return err
		})
		if added.Load() != 1 {
			c.Fatalf("%d of %d adds report that they were the first", added.Load(), adders)
		}
		want := winner.Load().(tier.Item)
		c.wants(id, &want, "after many adds")
	}
}

// together calls f with 0 to n-1 at once, and fails when one returns an error.
func (c *cache) together(n int, f func(n int) error) {
	c.Helper()
	start := make(chan struct{})
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Add(1)
		go func() {
			defer all.Done()
			<-start
			errs[i] = f(i)
		}()
	}
	close(start)
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		c.Fatal(err)
	}
}

func cacheSwap(c *cache) {
	id := newID()
	c.set(id, item("0"), cacheLong)
	for i := 1; i < 4; i++ {
		next := tier.Item{Flags: uint32(i), Value: []byte(strconv.Itoa(i))}
		c.swap(id, c.there(id), next, cacheLong, tier.Stored, "nobody else")
		c.wants(id, &next, "swapped")
	}
	added := newID()
	c.add(added, item("added"), cacheLong, true, "never used")
	next := item("next")
	c.swap(added, c.there(added), next, cacheLong, tier.Stored, "after an add")
	c.wants(added, &next, "swapped after an add")
}

// cacheSwapToken shows that the rest of the old item does not matter.
func cacheSwapToken(c *cache) {
	id := newID()
	c.set(id, item("first"), cacheLong)
	next := item("next")
	c.swap(id, &tier.Item{Token: c.there(id).Token}, next, cacheLong, tier.Stored, "with the token alone")
	c.wants(id, &next, "swapped with the token alone")

	last := item("last")
	c.swap(id, &tier.Item{Flags: 1, Value: []byte("x"), Token: c.there(id).Token}, last, cacheLong, tier.Stored, "with a changed item")
	c.wants(id, &last, "swapped with a changed item")
}

func cacheConflict(c *cache) {
	first, other := item("first"), item("other")
	swap := func(it tier.Item) func(string) {
		return func(id string) { c.swap(id, c.there(id), it, cacheLong, tier.Stored, "by another") }
	}
	set := func(it tier.Item) func(string) { return func(id string) { c.set(id, it, cacheLong) } }
	drop := func(id string) { c.set(id, item("x"), 0) }
	add := func(it tier.Item) func(string) {
		return func(id string) { c.add(id, it, cacheLong, true, "by another") }
	}
	for name, changes := range map[string][]func(id string){
		"set":                         {set(other)},
		"the same set":                {set(first)},
		"swapped":                     {swap(other)},
		"the same swapped in":         {swap(first)},
		"set, and set back":           {set(other), set(first)},
		"swapped, and swapped back":   {swap(other), swap(first)},
		"gone and added":              {drop, add(other)},
		"gone and the same added":     {drop, add(first)},
		"gone and the same set":       {drop, set(first)},
		"gone, and added twice":       {drop, add(other), drop, add(first)},
		"set, gone, and swapped back": {set(other), drop, add(other), swap(first)},
	} {
		id := newID()
		c.add(id, first, cacheLong, true, name)
		old := c.there(id)
		for _, change := range changes {
			change(id)
		}
		is := c.there(id)
		for range 2 {
			c.swap(id, old, item("late"), cacheLong, tier.Conflict, name)
		}
		c.wants(id, is, name+", after a conflict")
		c.swap(id, is, item("last"), cacheLong, tier.Stored, name+", after a conflict")
		c.swap(id, is, item("late"), cacheLong, tier.Conflict, name+", after the caller's own swap")
	}
}

func cacheAbsent(c *cache) {
	id := newID()
	c.set(id, item("first"), cacheLong)
	old := c.there(id)
	c.set(id, item("x"), 0)
	for range 2 {
		c.swap(id, old, item("late"), cacheLong, tier.Absent, "gone")
		c.wants(id, nil, "after a swap of nothing")
	}
	c.swap(id, old, item("late"), 0, tier.Absent, "gone, without a ttl")
}

func cacheSwaps(c *cache) {
	const rounds, swappers = 10, 8
	id := newID()
	c.set(id, item("0"), cacheLong)
	for range rounds {
		var stored atomic.Int64
		var winner atomic.Value
		old := c.there(id)
		c.together(swappers, func(n int) error {
			it := item(strconv.Itoa(n))
			outcome, err := c.CompareAndSwap(c.ctx, id, old, it, cacheLong)
			switch {
			case err != nil:
				return err
			case outcome == tier.Stored:
				stored.Add(1)
				winner.Store(it)
			case outcome == tier.Absent:
				return errors.New("compare-and-swap answers absent, although an item is there")
			}
			return nil
		})
		if stored.Load() != 1 {
			c.Fatalf("%d of %d swaps of the same version were made", stored.Load(), swappers)
		}
		want := winner.Load().(tier.Item)
		c.wants(id, &want, "after many swaps")
	}
}

// cacheCounter increments a number and, along with it, the flags.
func cacheCounter(c *cache) {
	const workers, increments = 16, 12
	id := newID()
	c.set(id, tier.Item{Value: []byte("0")}, cacheLong)
	c.together(workers, func(int) error {
		for range increments {
			for {
				old, err := c.Get(c.ctx, id)
				if err != nil {
					return err
				}
				if old == nil {
					return errors.New("got nothing, although an item was stored")
				}
				n, err := strconv.Atoi(string(old.Value))
				if err != nil || uint32(n) != old.Flags {
					return fmt.Errorf("got %s: parts of two items", describeItem(old))
				}
				next := tier.Item{Flags: uint32(n + 1), Value: []byte(strconv.Itoa(n + 1))}
				outcome, err := c.CompareAndSwap(c.ctx, id, old, next, cacheLong)
				if err != nil {
					return err
				}
				if outcome == tier.Stored {
					break
				}
			}
		}
		return nil
	})
	if got := string(c.there(id).Value); got != strconv.Itoa(workers*increments) {
		c.Errorf("after %d increments the number is %s", workers*increments, got)
	}
}

// cacheNewer stores numbers that grow, and reads them meanwhile.
func cacheNewer(c *cache) {
	const readers, writes = 6, 60
	id := newID()
	var newest atomic.Int64 // that was shown, or taken
	taken := func(n int64) {
		for {
			is := newest.Load()
			if is >= n || newest.CompareAndSwap(is, n) {
				return
			}
		}
	}
	c.set(id, item("0"), cacheLong)
	var ended atomic.Bool
	c.together(1+readers, func(worker int) error {
		if worker == 0 {
			defer ended.Store(true)
			for n := int64(1); n <= writes; n++ {
				next := item(strconv.FormatInt(n, 10))
				if n%2 == 0 {
					if err := c.Set(c.ctx, id, next, cacheLong); err != nil {
						return err
					}
				} else {
					old, err := c.Get(c.ctx, id)
					if err != nil {
						return err
					}
					outcome, err := c.CompareAndSwap(c.ctx, id, old, next, cacheLong)
					if err != nil {
						return err
					}
					if outcome != tier.Stored {
						return errors.New("a swap failed, although nobody else stores anything")
					}
				}
				taken(n)
			}
			return nil
		}
		for !ended.Load() {
			least := newest.Load()
			it, err := c.Get(c.ctx, id)
			if err != nil {
				return err
			}
			if it == nil {
				return errors.New("got nothing, although an item was stored")
			}
			n, err := strconv.ParseInt(string(it.Value), 10, 64)
			if err != nil {
				return err
			}
			if n < least {
				return fmt.Errorf("got number %d after number %d had been shown or taken", n, least)
			}
			taken(n)
		}
		return nil
	})
}

func cacheNoTTL(c *cache) {
	for _, ttl := range []time.Duration{0, -1, -time.Second, -time.Hour} {
		when := fmt.Sprintf("ttl %v", ttl)
		there := item("there")

		id := newID()
		c.set(id, item("new"), ttl)
		c.wants(id, nil, when+", set where nothing was")
		c.set(id, there, cacheLong)
		c.set(id, item("new"), ttl)
		c.wants(id, nil, when+", set where something was")

		c.add(id, item("new"), ttl, true, when)
		c.wants(id, nil, when+", added")
		c.add(id, there, cacheLong, true, when+", after an add that was not kept")
		c.add(id, item("new"), ttl, false, when)
		c.wants(id, &there, when+", added where something was")

		old := c.there(id)
		c.set(id, there, cacheLong)
		c.swap(id, old, item("new"), ttl, tier.Conflict, when)
		c.wants(id, &there, when+", swapped for another version")
		c.swap(id, c.there(id), item("new"), ttl, tier.Stored, when)
		c.wants(id, nil, when+", swapped")
	}
}

// cacheExpires waits once, for everything that has to expire.
func cacheExpires(c *cache) {
	const second = time.Second
	it, next := item("it"), item("next")
	ends := map[string]func(id string){
		"set":                          func(id string) { c.set(id, it, second) },
		"set for 10 ms":                func(id string) { c.set(id, it, second/100) },
		"set for a nanosecond":         func(id string) { c.set(id, it, 1) },
		"added":                        func(id string) { c.add(id, it, second, true, "before") },
		"added for 10 ms":              func(id string) { c.add(id, it, second/100, true, "before") },
		"set for longer, then shorter": func(id string) { c.set(id, it, cacheLong); c.set(id, it, second) },
		"swapped": func(id string) {
			c.set(id, it, cacheLong)
			c.swap(id, c.there(id), next, second, tier.Stored, "before")
		},
		"swapped for 10 ms": func(id string) {
			c.set(id, it, cacheLong)
			c.swap(id, c.there(id), next, second/100, tier.Stored, "before")
		},
		"not extended by an add": func(id string) {
			c.set(id, it, 2*second)
			c.add(id, next, cacheLong, false, "before")
		},
		"not extended by a conflict": func(id string) {
			c.set(id, it, cacheLong)
			old := c.there(id)
			c.set(id, it, 2*second)
			c.swap(id, old, next, cacheLong, tier.Conflict, "before")
		},
		"not extended by reading": func(id string) {
			c.set(id, it, second)
			for range 3 {
				c.get(id)
			}
		},
	}
	stays := map[string]func(id string){
		"set":                          func(id string) { c.set(id, next, time.Minute) },
		"set for 40 days":              func(id string) { c.set(id, next, 40*24*time.Hour) },
		"set for ten years":            func(id string) { c.set(id, next, 10*365*24*time.Hour) },
		"added":                        func(id string) { c.add(id, next, time.Minute, true, "before") },
		"set for shorter, then longer": func(id string) { c.set(id, it, second); c.set(id, next, cacheLong) },
		"swapped": func(id string) {
			c.set(id, it, 2*second)
			c.swap(id, c.there(id), next, cacheLong, tier.Stored, "before")
		},
		"not cut by an add": func(id string) {
			c.set(id, next, cacheLong)
			c.add(id, it, second, false, "before")
		},
		"not cut by a conflict": func(id string) {
			c.set(id, next, cacheLong)
			old := c.there(id)
			c.set(id, next, cacheLong)
			c.swap(id, old, it, second, tier.Conflict, "before")
		},
	}
	watched := newID()
	c.set(watched, it, second)
	old := c.get(watched)

	ending, staying := map[string]string{}, map[string]string{}
	for name, prepare := range stays {
		staying[name] = newID()
		prepare(staying[name])
	}
	for name, prepare := range ends {
		ending[name] = newID()
		prepare(ending[name])
	}
	left := map[string]string{}
	for name, id := range ending {
		left[name] = id
	}
	for until, last := time.Now().Add(cacheExpiry), false; len(left) > 0 && !last; time.Sleep(50 * time.Millisecond) {
		last = !time.Now().Before(until) // a slow machine looks once more
		for name, id := range left {
			if c.get(id) == nil {
				delete(left, name)
			}
		}
	}
	for name := range left {
		c.Errorf("%s: still there after %v", name, cacheExpiry)
	}
	for name, id := range staying {
		c.wants(id, &next, name)
	}
	if old == nil {
		return // it was a slow second
	}
	c.wants(watched, nil, "expired")
	c.swap(watched, old, next, cacheLong, tier.Absent, "expired")
	c.add(watched, it, cacheLong, true, "expired")
	c.swap(watched, old, next, cacheLong, tier.Conflict, "expired, and the same added")
	c.wants(watched, &it, "expired, and the same added")
}

func cacheFits(c *cache) {
	const unlimited = 4 << 20
	id := newID()
	if !c.Fits(id, 0) {
		c.Fatal("an empty value does not fit")
	}
	fits, fitsNot := 0, unlimited
	for fitsNot-fits > 1 {
		if middle := (fits + fitsNot) / 2; c.Fits(id, middle) {
			fits = middle
		} else {
			fitsNot = middle
		}
	}
	largest := item("")
	largest.Value = make([]byte, fits)
	for i := range largest.Value {
		largest.Value[i] = byte(rand.Uint32())
	}
	c.set(id, largest, cacheLong)
	c.wants(id, &largest, "the largest value that fits, set")
	largest.Flags = 1
	c.swap(id, c.there(id), largest, cacheLong, tier.Stored, "the largest value that fits")
	c.wants(id, &largest, "the largest value that fits, swapped")
	added := newID()
	c.add(added, largest, cacheLong, true, "the largest value that fits")
	c.wants(added, &largest, "the largest value that fits, added")
	if c.Fits(id, unlimited) || fitsNot == unlimited {
		c.Logf("%d bytes fit", fits)
		return
	}

	over := item("")
	over.Value = make([]byte, 2*fitsNot)
	small := item("small")
	c.set(id, small, cacheLong)
	old, free := c.there(id), newID()
	for name, store := range map[string]func() error{
		"set": func() error { return c.Set(c.ctx, id, over, cacheLong) },
		"add": func() error { _, err := c.Add(c.ctx, free, over, cacheLong); return err },
		"compare-and-swap": func() error {
			_, err := c.CompareAndSwap(c.ctx, id, old, over, cacheLong)
			return err
		},
	} {
		if err := store(); !errors.Is(err, tier.ErrTooLarge) {
			c.Errorf("%s of twice what does not fit: got %v, want ErrTooLarge", name, err)
		}
	}
	c.wants(id, &small, "after values that are too large")
	c.wants(free, nil, "after an add of what is too large")
	c.swap(id, old, item("next"), cacheLong, tier.Stored, "after values that are too large")
}

func cacheEnded(c *cache) {
	cancelled, cancel := context.WithCancel(c.ctx)
	cancel()
	expired, cancel := context.WithDeadline(c.ctx, time.Now().Add(-time.Second))
	defer cancel()
	it, other := item("it"), item("other")
	for name, ctx := range map[string]context.Context{"cancelled": cancelled, "past its deadline": expired} {
		id, free := newID(), newID()
		c.set(id, it, cacheLong)
		old := c.there(id)
		for call, f := range map[string]func() error{
			"get":              func() error { _, err := c.Get(ctx, id); return err },
			"set":              func() error { return c.Set(ctx, id, other, cacheLong) },
			"set without ttl":  func() error { return c.Set(ctx, id, other, 0) },
			"add":              func() error { _, err := c.Add(ctx, free, other, cacheLong); return err },
			"compare-and-swap": func() error { _, err := c.CompareAndSwap(ctx, id, old, other, cacheLong); return err },
		} {
			done := make(chan error, 1)
			go func() { done <- f() }()
			select {
			case err := <-done:
				if err == nil {
					c.Errorf("%s: no error, although the context was %s", call, name)
				}
			case <-time.After(cachePatience):
				c.Fatalf("%s: does not end, although the context was %s", call, name)
			}
		}
		c.set(id, it, cacheLong)
		c.wants(id, &it, "after calls with a context "+name)
		c.swap(id, c.there(id), other, cacheLong, tier.Stored, "after calls with a context "+name)
	}
}
