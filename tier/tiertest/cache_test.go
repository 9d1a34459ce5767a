package tiertest_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gaesession/gaesession/tier"
	"github.com/gaesession/gaesession/tier/tiertest"
)

func TestCachesThatKeepTheContract(t *testing.T) {
	for name, newCache := range map[string]func() tier.Cache{
		"in memory":                   func() tier.Cache { return tiertest.NewCache() },
		"in memory, with a limit":     func() tier.Cache { c := tiertest.NewCache(); c.Limit = 10_000; return c },
		"that counts in milliseconds": func() tier.Cache { return &memoryCache{} },
		"that counts in seconds":      func() tier.Cache { return &memoryCache{fault: "whole seconds"} },
		"that keeps 10 MB values":     func() tier.Cache { return &memoryCache{fault: "no limit"} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tiertest.TestCache(t, func(t *testing.T) tier.Cache { return newCache() })
		})
	}
}

func TestAFlushedCacheIsEmptyAndGoesOn(t *testing.T) {
	ctx, c := context.Background(), tiertest.NewCache()
	it := tier.Item{Value: []byte("v")}
	if err := c.Set(ctx, "id", it, time.Hour); err != nil {
		t.Fatal(err)
	}
	old, err := c.Get(ctx, "id")
	if err != nil || old == nil {
		t.Fatalf("got %v, %v", old, err)
	}
	c.Flush()
	if it, err := c.Get(ctx, "id"); it != nil || err != nil {
		t.Errorf("got %v, %v; want nothing", it, err)
	}
	if added, err := c.Add(ctx, "id", it, time.Hour); !added || err != nil {
		t.Errorf("add after the flush: %t, %v", added, err)
	}
	if got, err := c.CompareAndSwap(ctx, "id", old, it, time.Hour); got != tier.Conflict || err != nil {
		t.Errorf("swap of what was there before the flush: %v, %v; want a conflict", got, err)
	}
}

// Each is broken in one way, and says which part of the suite has to see it.
var brokenCaches = map[string]string{
	"is not comparable":                     "ItIsComparable",
	"an error where nothing is there":       "NothingIsThere",
	"an empty item where nothing is there":  "NothingIsThere",
	"forgets flags":                         "GetReturnsWhatWasSet",
	"keeps 31 flags":                        "GetReturnsWhatWasSet",
	"ends values at a zero byte":            "GetReturnsWhatWasSet",
	"takes an empty value for none":         "GetReturnsWhatWasSet",
	"forgets flags when it swaps":           "GetReturnsWhatWasSet",
	"forgets flags when it adds":            "GetReturnsWhatWasSet",
	"ids in lower case":                     "IdsAreToldApart",
	"ids without spaces":                    "IdsAreToldApart",
	"ids end at a zero byte":                "IdsAreToldApart",
	"ids of 200 bytes":                      "IdsAreToldApart",
	"set keeps what is there":               "SetReplaces",
	"add stores nothing":                    "AddToNothing",
	"add refuses where something was":       "AddToNothing",
	"add overwrites":                        "AddToAnItem",
	"add overwrites and refuses":            "AddToAnItem",
	"add overwrites an empty item":          "AddToAnItem",
	"add reports what it did not":           "AddToAnItem",
	"a refused add is a new version":        "AddToAnItem",
	"add looks, then stores":                "OnlyOneOfManyAddsIsTheFirst",
	"swap stores nothing":                   "SwapReplacesTheVersionRead",
	"swap works once":                       "SwapReplacesTheVersionRead",
	"swap fails after an add":               "SwapReplacesTheVersionRead",
	"compares the value too":                "SwapLooksAtTheTokenAlone",
	"compares the value":                    "SwapOfAnotherVersionIsAConflict",
	"swap overwrites":                       "SwapOfAnotherVersionIsAConflict",
	"swap overwrites and refuses":           "SwapOfAnotherVersionIsAConflict",
	"a conflict is absent":                  "SwapOfAnotherVersionIsAConflict",
	"a conflict deletes":                    "SwapOfAnotherVersionIsAConflict",
	"versions start again":                  "SwapOfAnotherVersionIsAConflict",
	"the same value is no new version":      "SwapOfAnotherVersionIsAConflict",
	"a swap keeps the version":              "SwapOfAnotherVersionIsAConflict",
	"absent is a conflict":                  "SwapOfNothing",
	"swap stores where nothing is":          "SwapOfNothing",
	"swap looks, then stores":               "OnlyOneOfManySwapsOfAVersionIsMade",
	"a swap in ten looks, then stores":      "NoSwapIsLost",
	"a read in ten is stale":                "NothingOlderIsShownAgain",
	"a ttl of zero is for ever":             "WithoutATTLNothingIsKept",
	"a negative ttl is for ever":            "WithoutATTLNothingIsKept",
	"set without ttl does nothing":          "WithoutATTLNothingIsKept",
	"add without ttl removes":               "WithoutATTLNothingIsKept",
	"add without ttl is refused":            "WithoutATTLNothingIsKept",
	"swap without ttl does not compare":     "WithoutATTLNothingIsKept",
	"swap without ttl does nothing":         "WithoutATTLNothingIsKept",
	"ttl of ten seconds":                    "ItemsExpire",
	"short ttls are for ever":               "ItemsExpire",
	"add ignores the ttl":                   "ItemsExpire",
	"swap ignores the ttl":                  "ItemsExpire",
	"a refused add extends":                 "ItemsExpire",
	"reading extends":                       "ItemsExpire",
	"a conflict extends":                    "ItemsExpire",
	"the first ttl counts":                  "ItemsExpire",
	"long ttls are points in time":          "ItemsExpire",
	"expired items are conflicts":           "ItemsExpire",
	"takes less than fits":                  "WhatFitsIsKept",
	"adds less than fits":                   "WhatFitsIsKept",
	"nothing fits":                          "WhatFitsIsKept",
	"stores the start of what is too large": "WhatFitsIsKept",
	"deletes for what is too large":         "WhatFitsIsKept",
	"another error for what is too large":   "WhatFitsIsKept",
	"does not look at the context":          "AnEndedContextEndsCalls",
	"add does not look at the context":      "AnEndedContextEndsCalls",
	"ends with the first ended context":     "AnEndedContextEndsCalls",
}

const brokenCacheEnv = "TIERTEST_BROKEN_CACHE"

// TestBrokenCache is what the next test runs in processes of its own.
func TestBrokenCache(t *testing.T) {
	fault := os.Getenv(brokenCacheEnv)
	if fault == "" {
		t.Skip("run by TestTheSuiteFindsWhatIsBrokenInACache")
	}
	tiertest.TestCache(t, func(t *testing.T) tier.Cache {
		c := &memoryCache{fault: fault}
		if fault == "is not comparable" {
			return struct {
				tier.Cache
				_ func()
			}{Cache: c}
		}
		return c
	})
}

func TestTheSuiteFindsWhatIsBrokenInACache(t *testing.T) {
	results := make(map[string]<-chan childResult)
	for fault, part := range brokenCaches {
		// What goes wrong now and then may be seen now and then.
		attempts := 1
		if strings.Contains(fault, "in ten") {
			attempts = 10
		}
		results[fault] = startChild("^TestBrokenCache$/^"+part+"$", brokenCacheEnv+"="+fault, attempts)
	}
	for fault, part := range brokenCaches {
		t.Run(fault, func(t *testing.T) {
			(<-results[fault]).expectFailure(t, "TestBrokenCache/"+part)
		})
	}
}

// memoryCache is a Cache in memory, with one fault or none.
type memoryCache struct {
	fault string

	mu     sync.Mutex
	items  map[string]*cached
	gone   map[string]bool
	clock  int // of versions
	calls  int
	swaps  int
	broken bool
}

type cached struct {
	tier.Item
	version int
	expires time.Time
	stale   tier.Item // what it replaced
	fresh   time.Time // when it did
	added   bool
	swapped bool
}

const maxCached = 100_000

func (m *memoryCache) is(fault string) bool { return m.fault == fault }

// enter locks the cache, unless the context has ended.
func (m *memoryCache) enter(ctx context.Context, call string) error {
	m.mu.Lock()
	if err := ctx.Err(); err != nil && !m.is("does not look at the context") && !m.is(call+" does not look at the context") {
		m.broken = m.is("ends with the first ended context")
		m.mu.Unlock()
		return err
	}
	if m.broken {
		m.mu.Unlock()
		return errors.New("out of order")
	}
	if m.items == nil {
		m.items, m.gone = map[string]*cached{}, map[string]bool{}
	}
	m.calls++
	return nil
}

func (m *memoryCache) key(id string) string {
	switch m.fault {
	case "ids in lower case":
		return strings.ToLower(id)
	case "ids without spaces":
		return strings.TrimSpace(id)
	case "ids end at a zero byte":
		id, _, _ = strings.Cut(id, "\x00")
	case "ids of 200 bytes":
		id = id[:min(len(id), 200)]
	}
	return id
}

// at returns what is there, or nil.
func (m *memoryCache) at(id string) *cached {
	c := m.items[m.key(id)]
	if c != nil && time.Now().After(c.expires) && !m.is("expired items are conflicts") {
		delete(m.items, m.key(id))
		return nil
	}
	return c
}

func (m *memoryCache) Get(ctx context.Context, id string) (*tier.Item, error) {
	if err := m.enter(ctx, "get"); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	c := m.at(id)
	if c == nil || m.is("expired items are conflicts") && time.Now().After(c.expires) {
		switch m.fault {
		case "an error where nothing is there":
			return nil, errors.New("cache miss")
		case "an empty item where nothing is there":
			return &tier.Item{}, nil
		}
		return nil, nil
	}
	it := c.Item
	if m.is("a read in ten is stale") && m.calls%10 == 0 && c.stale.Value != nil && time.Since(c.fresh) < 50*time.Millisecond {
		it = c.stale
	}
	if m.is("reading extends") {
		c.expires = time.Now().Add(time.Hour)
	}
	it.Value = bytes.Clone(it.Value)
	if m.is("takes an empty value for none") && len(it.Value) == 0 {
		return nil, nil
	}
	it.Token = c.version
	if m.is("compares the value") || m.is("compares the value too") {
		it.Token = string(it.Value)
	}
	return &it, nil
}

// fits returns an error if a value is too large.
func (m *memoryCache) fits(call, id string, it *tier.Item) error {
	limit := maxCached
	if m.is("takes less than fits") || m.is("adds less than fits") && call == "add" {
		limit--
	}
	if m.is("no limit") || len(it.Value) <= limit {
		return nil
	}
	switch m.fault {
	case "stores the start of what is too large":
		it.Value = it.Value[:maxCached]
		return nil
	case "deletes for what is too large":
		delete(m.items, m.key(id))
	case "another error for what is too large":
		return errors.New("value of wrong size")
	}
	return tier.ErrTooLarge
}

// store stores the item, whatever is there.
func (m *memoryCache) store(call, id string, it tier.Item, ttl time.Duration) *cached {
	was := m.at(id)
	if ttl <= 0 {
		if !(m.is("a ttl of zero is for ever") && ttl == 0 || m.is("a negative ttl is for ever") && ttl < 0) {
			delete(m.items, m.key(id))
			m.gone[m.key(id)] = true
			return nil
		}
		ttl = time.Hour
	}
	switch {
	case m.is("whole seconds"):
		ttl = (ttl + time.Second - 1).Truncate(time.Second)
	case m.is("ttl of ten seconds"):
		ttl = max(ttl, 10*time.Second)
	case m.is("short ttls are for ever") && ttl < time.Second,
		m.is(call + " ignores the ttl"):
		ttl = time.Hour
	case m.is("long ttls are points in time") && ttl > 30*24*time.Hour:
		ttl = 0
	}
	it.Value = bytes.Clone(it.Value)
	if m.is("forgets flags") || m.is("forgets flags when it "+call+"s") {
		it.Flags = 0
	}
	switch m.fault {
	case "keeps 31 flags":
		it.Flags &= 1<<31 - 1
	case "ends values at a zero byte":
		it.Value, _, _ = bytes.Cut(it.Value, []byte{0})
	}
	m.clock++
	c := &cached{Item: it, version: m.clock, expires: time.Now().Add(ttl), fresh: time.Now(), added: call == "add", swapped: call == "swap"}
	if m.is("versions start again") {
		c.version = 1
	}
	if was != nil {
		c.stale = was.Item
		switch {
		case m.is("versions start again"),
			m.is("the same value is no new version") && bytes.Equal(was.Value, it.Value):
			c.version = was.version
			if m.is("versions start again") {
				c.version++
			}
		case m.is("a swap keeps the version") && call == "swap":
			c.version = was.version
		case m.is("the first ttl counts"):
			c.expires = was.expires
		}
	}
	m.items[m.key(id)] = c
	return c
}

func (m *memoryCache) Set(ctx context.Context, id string, it tier.Item, ttl time.Duration) error {
	if err := m.enter(ctx, "set"); err != nil {
		return err
	}
	defer m.mu.Unlock()
	if err := m.fits("set", id, &it); err != nil {
		return err
	}
	if m.is("set keeps what is there") && m.at(id) != nil && ttl > 0 || m.is("set without ttl does nothing") && ttl <= 0 {
		return nil
	}
	m.store("set", id, it, ttl)
	return nil
}

func (m *memoryCache) Add(ctx context.Context, id string, it tier.Item, ttl time.Duration) (bool, error) {
	if err := m.enter(ctx, "add"); err != nil {
		return false, err
	}
	defer m.mu.Unlock()
	if err := m.fits("add", id, &it); err != nil {
		return false, err
	}
	is := m.at(id)
	if m.is("add looks, then stores") {
		m.pause()
	}
	switch {
	case is == nil && m.is("add stores nothing"):
		return true, nil
	case is == nil && m.is("add refuses where something was") && m.gone[m.key(id)],
		is == nil && m.is("add without ttl is refused") && ttl <= 0:
		return false, nil
	case is == nil,
		m.is("add overwrites"),
		m.is("add overwrites an empty item") && len(is.Value) == 0:
		m.store("add", id, it, ttl)
		return true, nil
	case m.is("add overwrites and refuses"), m.is("add without ttl removes") && ttl <= 0:
		m.store("add", id, it, ttl)
	case m.is("add reports what it did not"):
		return true, nil
	case m.is("a refused add is a new version"):
		m.clock++
		is.version = m.clock
	case m.is("a refused add extends"):
		is.expires = time.Now().Add(ttl)
	}
	return false, nil
}

// pause gives others a turn.
func (m *memoryCache) pause() {
	m.mu.Unlock()
	time.Sleep(time.Millisecond)
	m.mu.Lock()
}

func (m *memoryCache) CompareAndSwap(ctx context.Context, id string, old *tier.Item, it tier.Item, ttl time.Duration) (tier.Outcome, error) {
	if err := m.enter(ctx, "swap"); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	if err := m.fits("swap", id, &it); err != nil {
		return 0, err
	}
	is := m.at(id)
	if is == nil {
		switch m.fault {
		case "absent is a conflict":
			return tier.Conflict, nil
		case "swap stores where nothing is":
			m.store("swap", id, it, ttl)
		}
		return tier.Absent, nil
	}
	same := old.Token == any(is.version)
	switch m.fault {
	case "compares the value":
		same = old.Token == any(string(is.Value))
	case "compares the value too":
		same = string(old.Value) == string(is.Value) && old.Token == any(string(is.Value))
	case "swap without ttl does not compare":
		same = same || ttl <= 0
	case "swap works once":
		same = same && !is.swapped
	case "swap fails after an add":
		same = same && !is.added
	}
	if !same {
		switch m.fault {
		case "swap overwrites":
			m.store("swap", id, it, ttl)
			return tier.Stored, nil
		case "swap overwrites and refuses":
			m.store("swap", id, it, ttl)
		case "a conflict is absent":
			return tier.Absent, nil
		case "a conflict deletes":
			delete(m.items, m.key(id))
		case "a conflict extends":
			is.expires = time.Now().Add(ttl)
		}
		return tier.Conflict, nil
	}
	m.swaps++
	if m.is("swap looks, then stores") || m.is("a swap in ten looks, then stores") && m.swaps%10 == 0 {
		m.pause()
	}
	if m.is("swap stores nothing") || m.is("swap without ttl does nothing") && ttl <= 0 {
		return tier.Stored, nil
	}
	m.store("swap", id, it, ttl)
	return tier.Stored, nil
}

func (m *memoryCache) Fits(_ string, size int) bool {
	return (size <= maxCached || m.is("no limit")) && !m.is("nothing fits")
}

func (m *memoryCache) ValidID(id string) bool { return id != "" }
