package tiertest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gaesession/gaesession/tier"
	"github.com/gaesession/gaesession/tier/tiertest"
)

func TestBackupsThatKeepTheContract(t *testing.T) {
	for name, newBackup := range map[string]func() *memory{
		"conditional on a version":     func() *memory { return &memory{way: versions} },
		"conditional on the value":     func() *memory { return &memory{way: values} },
		"with a lock":                  func() *memory { return &memory{way: locks} },
		"that gives up soon":           func() *memory { return &memory{way: versions, rounds: 2} },
		"without a conditional insert": func() *memory { return &memory{way: values, insertOverwrites: true} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tiertest.TestBackup(t, func(t *testing.T) tier.Backup { return newBackup() })
		})
	}
}

// Each is broken in one way, and says which part of the suite has to see it.
var broken = map[string]struct {
	way  way
	part string
}{
	"reads may be stale":                         {versions, "AReadSeesEveryWriteBeforeIt"},
	"an error where nothing is there":            {versions, "NothingIsThere"},
	"loses microseconds":                         {versions, "GetReturnsWhatWasPut"},
	"rounds to milliseconds":                     {versions, "GetReturnsWhatWasPut"},
	"takes an empty value for none":              {versions, "GetReturnsWhatWasPut"},
	"keeps the slice":                            {versions, "SlicesBelongToTheCaller"},
	"hands out its slice":                        {versions, "SlicesBelongToTheCaller"},
	"hides what is expired":                      {versions, "ExpiredRecordsStayForTheGrace"},
	"ids in lower case":                          {versions, "IdsAreToldApart"},
	"ids cut off":                                {versions, "IdsAreToldApart"},
	"insert overwrites and refuses":              {versions, "InsertIsTheFirst"},
	"insert looks, then puts":                    {versions, "OnlyOneOfManyInsertsIsTheFirst"},
	"takes less than fits":                       {versions, "WhatFitsIsKept"},
	"writes the start of what is too large":      {versions, "WhatFitsIsKept"},
	"another error for what is too large":        {versions, "WhatFitsIsKept"},
	"update sets no token":                       {versions, "TokensNameVersions"},
	"writes the token it is given":               {versions, "TokensNameVersions"},
	"an emptied record for nothing":              {versions, "UpdateOfNothing"},
	"trusts known":                               {versions, "UpdateWithAndWithoutAnIdeaOfWhatIsThere"},
	"trusts known with a token":                  {versions, "UpdateWithAndWithoutAnIdeaOfWhatIsThere"},
	"compares the value alone":                   {values, "UpdateWithAndWithoutAnIdeaOfWhatIsThere"},
	"writes what f returned first":               {versions, "UpdateWithAndWithoutAnIdeaOfWhatIsThere"},
	"writes although f failed":                   {versions, "UpdateThatWritesNothing"},
	"deletes when f returns nothing":             {versions, "UpdateThatWritesNothing"},
	"wraps the error of f":                       {versions, "UpdateThatWritesNothing"},
	"calls f again for its ErrContention":        {versions, "UpdateThatWritesNothing"},
	"keeps its lock when f writes nothing":       {locks, "UpdateThatWritesNothing"},
	"update looks, then puts":                    {versions, "UpdatesThatOverlap"},
	"update of nothing puts":                     {versions, "UpdatesThatOverlap"},
	"update sees updates only":                   {versions, "AWriteDuringAnUpdateIsNotLost"},
	"writes when it gives up":                    {versions, "AnUpdateThatGivesUpWroteNothing"},
	"another error when it gives up":             {versions, "AnUpdateThatGivesUpWroteNothing"},
	"compares, then writes":                      {versions, "NoUpdateIsLost"},
	"does not look at the context":               {versions, "ACancelledContextEndsCalls"},
	"keeps its lock when the context ends":       {locks, "AContextCancelledDuringAnUpdate"},
	"writes, and reports the end of the context": {versions, ""}, // as may be
}

const brokenEnv = "TIERTEST_BROKEN"

// TestBroken is what the next test runs in processes of its own.
func TestBroken(t *testing.T) {
	fault := os.Getenv(brokenEnv)
	if fault == "" {
		t.Skip("run by TestTheSuiteFindsWhatIsBroken")
	}
	tiertest.TestBackup(t, func(t *testing.T) tier.Backup { return &memory{way: broken[fault].way, fault: fault} })
}

func TestTheSuiteFindsWhatIsBroken(t *testing.T) {
	results := make(map[string]<-chan childResult)
	for fault, want := range broken {
		run := "^TestBroken$"
		if want.part != "" {
			run += "/^" + want.part + "$"
		}
		results[fault] = startChild(run, brokenEnv+"="+fault, 1)
	}
	for fault, want := range broken {
		t.Run(fault, func(t *testing.T) {
			r := <-results[fault]
			if want.part != "" {
				r.expectFailure(t, "TestBroken/"+want.part)
			} else if r.err != nil {
				t.Errorf("refused, although the contract allows it:\n%s", r.out)
			}
		})
	}
}

type way string

const (
	versions way = "versions" // conditional writes
	values   way = "values"   // the same, without tokens
	locks    way = "locks"    // an update locks its record
)

// memory is a Backup that keeps the contract, but for its fault.
type memory struct {
	way              way
	rounds           int // of an update; 0: 100
	insertOverwrites bool
	fault            string

	mu      sync.Mutex
	records map[string]*kept
	version int64
	locked  map[string]chan struct{}
}

type kept struct {
	record  tier.Record
	before  *tier.Record
	version int64
	updates int64
}

const maxValue = 100_000

var errClosed = errors.New("out of order")

func (m *memory) is(fault string) bool { return m.fault == fault }

func (m *memory) ended(ctx context.Context) error {
	if m.is("does not look at the context") {
		return nil
	}
	return ctx.Err()
}

func (m *memory) key(id string) string {
	if m.is("ids in lower case") {
		return strings.ToLower(id)
	}
	if m.is("ids cut off") {
		return id[:min(len(id), 120)]
	}
	return id
}

// lock takes the record's lock, and returns its release.
func (m *memory) lock(ctx context.Context, id string) (func(), error) {
	if m.way != locks {
		return func() {}, nil
	}
	m.mu.Lock()
	if m.locked == nil {
		m.locked = map[string]chan struct{}{}
	}
	l := m.locked[id]
	if l == nil {
		l = make(chan struct{}, 1)
		m.locked[id] = l
	}
	m.mu.Unlock()
	select {
	case l <- struct{}{}:
		return func() { <-l }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (m *memory) Get(ctx context.Context, id string) (*tier.Record, error) {
	if err := m.ended(ctx); err != nil {
		return nil, err
	}
	return m.get(id)
}

func (m *memory) get(id string) (*tier.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := m.records[m.key(id)]
	switch {
	case k == nil && m.is("an error where nothing is there"):
		return nil, errClosed
	case k == nil,
		m.is("hides what is expired") && k.record.Expires.Before(time.Now()),
		m.is("takes an empty value for none") && len(k.record.Value) == 0:
		return nil, nil
	}
	r := k.record
	if m.is("reads may be stale") && k.before != nil && k.version%3 == 0 {
		r = *k.before
	}
	if !m.is("hands out its slice") && !m.is("keeps the slice") {
		r.Value = slices.Clone(r.Value)
	}
	return &r, nil
}

// set writes if cond, which is called with what is there, allows it.
func (m *memory) set(id string, r *tier.Record, update bool, cond func(*kept) bool) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.records == nil {
		m.records = map[string]*kept{}
	}
	k := m.records[m.key(id)]
	if cond != nil && !cond(k) {
		return false, nil
	}
	w := *r
	w.Expires = w.Expires.Truncate(time.Microsecond)
	switch {
	case m.is("loses microseconds"):
		w.Expires = w.Expires.Truncate(time.Second)
	case m.is("rounds to milliseconds"):
		w.Expires = w.Expires.Round(time.Millisecond)
	}
	if limit := maxValue; len(w.Value) > limit || m.is("takes less than fits") && len(w.Value) > limit-10 {
		switch {
		case m.is("writes the start of what is too large"):
			w.Value = w.Value[:limit]
		case m.is("another error for what is too large"):
			return false, errClosed
		default:
			return false, tier.ErrTooLarge
		}
	}
	if !m.is("keeps the slice") {
		w.Value = slices.Clone(w.Value)
	}
	next := &kept{record: w}
	if k != nil {
		before := k.record
		next.before, next.updates = &before, k.updates
	}
	m.version++
	next.version = m.version
	if update {
		next.updates++
	}
	if !m.is("writes the token it is given") || len(r.Token) == 0 || update {
		next.record.Token = nil
		if m.way == versions {
			next.record.Token = fmt.Append(nil, "v", m.version)
		}
	}
	m.records[m.key(id)] = next
	if update && !m.is("update sets no token") {
		r.Token = next.record.Token
	}
	return true, nil
}

func (m *memory) Put(ctx context.Context, id string, r tier.Record) error {
	if err := m.ended(ctx); err != nil {
		return err
	}
	release, err := m.lock(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	_, err = m.set(id, &r, false, nil)
	return err
}

func (m *memory) Insert(ctx context.Context, id string, r tier.Record) error {
	if err := m.ended(ctx); err != nil {
		return err
	}
	release, err := m.lock(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	missing := func(k *kept) bool { return k == nil }
	switch {
	case m.insertOverwrites:
		missing = nil
	case m.is("insert overwrites and refuses"):
		if current, _ := m.get(id); current != nil {
			_, err := m.set(id, &r, false, nil)
			return errors.Join(err, tier.ErrExists)
		}
	case m.is("insert looks, then puts"):
		if current, _ := m.get(id); current != nil {
			return tier.ErrExists
		}
		time.Sleep(time.Millisecond)
		missing = nil
	}
	done, err := m.set(id, &r, false, missing)
	if err == nil && !done {
		err = tier.ErrExists
	}
	return err
}

func (m *memory) Update(ctx context.Context, id string, known *tier.Record, f func(*tier.Record) (*tier.Record, error)) error {
	if err := m.ended(ctx); err != nil {
		return err
	}
	release, err := m.lock(ctx, id)
	if err != nil {
		return err
	}
	if m.is("keeps its lock when f writes nothing") || m.is("keeps its lock when the context ends") {
		unlock := release
		release = func() {}
		defer func() {
			if m.is("keeps its lock when the context ends") && ctx.Err() == nil || m.is("keeps its lock when f writes nothing") && known == nil {
				unlock()
			}
		}()
	}
	defer release()
	current := known
	trusts := m.is("trusts known") || m.is("trusts known with a token") && known != nil && len(known.Token) > 0
	if known == nil || len(known.Token) == 0 && m.way == versions && !trusts {
		if current, err = m.get(id); err != nil {
			return err
		}
	}
	if current == nil && m.is("an emptied record for nothing") {
		current = &tier.Record{}
	}
	rounds := m.rounds
	if rounds == 0 {
		rounds = 100
	}
	var first *tier.Record
	for range rounds {
		next, err := f(current)
		switch {
		case err != nil && m.is("writes although f failed"):
			_, _ = m.set(id, next, true, nil)
			return err
		case err != nil && m.is("wraps the error of f"):
			return fmt.Errorf("f: %w", err)
		case errors.Is(err, tier.ErrContention) && m.is("calls f again for its ErrContention"):
			_, err = f(current)
			return errors.Join(err)
		case err != nil:
			return err
		case next == nil && m.is("deletes when f returns nothing"):
			m.mu.Lock()
			delete(m.records, id)
			m.mu.Unlock()
			return nil
		case next == nil:
			return nil
		}
		if err := m.ended(ctx); err != nil {
			if m.is("writes, and reports the end of the context") {
				_, _ = m.set(id, next, true, nil)
			}
			return err
		}
		if first == nil {
			first = next
		}
		if m.is("writes what f returned first") {
			next = first
		}
		if m.is("compares, then writes") {
			m.mu.Lock()
			same := m.same(m.records[id], current)
			m.mu.Unlock()
			if same {
				time.Sleep(time.Millisecond) // others compare as well
				_, err := m.set(id, next, true, nil)
				return err
			}
		} else if done, err := m.set(id, next, true, func(k *kept) bool {
			return trusts || m.is("update looks, then puts") || m.is("update of nothing puts") && current == nil || m.same(k, current)
		}); err != nil || done {
			return err
		}
		if m.is("writes when it gives up") && first != next {
			_, _ = m.set(id, next, true, nil)
			return tier.ErrContention
		}
		if current, err = m.get(id); err != nil {
			return err
		}
	}
	if m.is("another error when it gives up") {
		return errClosed
	}
	return tier.ErrContention
}

// same reports whether what is kept is what an update was made from.
func (m *memory) same(k *kept, current *tier.Record) bool {
	if k == nil || current == nil {
		return k == nil && current == nil || m.is("an emptied record for nothing") && k == nil && current.Value == nil
	}
	if m.is("update sees updates only") {
		return k.updates == 0 || bytes.Equal(k.record.Token, current.Token)
	}
	if m.way == versions {
		return bytes.Equal(k.record.Token, current.Token)
	}
	return bytes.Equal(k.record.Value, current.Value) &&
		(k.record.Expires.Equal(current.Expires) || m.is("compares the value alone"))
}

func (m *memory) Fits(_ string, size int) bool { return size <= maxValue }
func (m *memory) ValidID(id string) bool       { return id != "" }
