package tiertest_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/gaesession/gaesession/tier"
	"github.com/gaesession/gaesession/tier/tiertest"
)

func TestBackupsThatKeepTheContract(t *testing.T) {
	for name, newBackup := range map[string]func() tier.Backup{
		"in memory":                    func() tier.Backup { return tiertest.NewBackup() },
		"in memory, with a limit":      func() tier.Backup { b := tiertest.NewBackup(); b.Limit = 10_000; return b },
		"with versions":                func() tier.Backup { return &memory{way: versions} },
		"with hashes of the content":   func() tier.Backup { return hashing{&memory{way: contents}} },
		"with locks":                   func() tier.Backup { return &memory{way: locks} },
		"that gives up soon":           func() tier.Backup { return &memory{way: versions, rounds: 1} },
		"without a conditional insert": func() tier.Backup { return &memory{way: contents, insertOverwrites: true} },
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
	"is not comparable":                           {versions, "ItIsComparable"},
	"an error where nothing is there":             {versions, "NothingIsThere"},
	"loses microseconds":                          {versions, "GetReturnsWhatWasPut"},
	"rounds to milliseconds":                      {versions, "GetReturnsWhatWasPut"},
	"takes an empty value for none":               {versions, "GetReturnsWhatWasPut"},
	"reads may be stale":                          {versions, "AReadSeesEveryWriteBeforeIt"},
	"keeps the slice":                             {versions, "NothingIsShared"},
	"hands on its slice":                          {versions, "NothingIsShared"},
	"hands on its pointer":                        {versions, "NothingIsShared"},
	"hands on its token":                          {versions, "NothingIsShared"},
	"keeps what an update was given":              {versions, "NothingIsShared"},
	"update changes its guess":                    {versions, "NothingIsShared"},
	"hides what is expired":                       {versions, "ExpiredRecordsStayForTheGrace"},
	"ids in lower case":                           {versions, "IdsAreToldApart"},
	"ids cut off":                                 {versions, "IdsAreToldApart"},
	"escapes to an id of another":                 {versions, "IdsAreToldApart"},
	"insert overwrites and refuses":               {versions, "InsertIsTheFirst"},
	"insert looks, then puts":                     {versions, "OnlyOneOfManyInsertsIsTheFirst"},
	"takes less than its largest value":           {versions, "TheLargestValueIsKept"},
	"guesses take less":                           {versions, "TheLargestValueIsKept"},
	"writes the start of what is too large":       {versions, "TheLargestValueIsKept"},
	"another error for what is too large":         {versions, "TheLargestValueIsKept"},
	"writes the others of what is too large":      {versions, "TheLargestValueIsKept"},
	"no tokens":                                   {versions, "TokensNameVersions"},
	"tokens of 65 bytes":                          {versions, "TokensNameVersions"},
	"an emptied record has no token":              {versions, "TokensNameVersions"},
	"tokens of the value alone":                   {contents, "TokensNameVersions"},
	"knows tokens of the nanosecond":              {contents, "TokensNameVersions"},
	"update sets no token":                        {versions, "TokensNameVersions"},
	"update sets the first token":                 {versions, "TokensNameVersions"},
	"a guess sets no token":                       {versions, "TokensNameVersions"},
	"update keeps a token that is set":            {versions, "TokensNameVersions"},
	"writes the token it is given":                {versions, "TokensNameVersions"},
	"an emptied record for nothing":               {versions, "UpdateReplacesWhatIsThere"},
	"nothing for an emptied record":               {versions, "UpdateReplacesWhatIsThere"},
	"the order of the ids themselves":             {versions, "UpdateReplacesWhatIsThere"},
	"f gets no tokens":                            {versions, "UpdateReplacesWhatIsThere"},
	"writes the first of several":                 {versions, "UpdateReplacesWhatIsThere"},
	"deletes what f leaves":                       {versions, "UpdateLeavesWhatFLeaves"},
	"leaves all when f leaves one":                {versions, "UpdateLeavesWhatFLeaves"},
	"writes although f failed":                    {versions, "UpdateThatWritesNothing"},
	"wraps the error of f":                        {versions, "UpdateThatWritesNothing"},
	"calls f again for its ErrContention":         {versions, "UpdateThatWritesNothing"},
	"keeps its lock when f writes nothing":        {locks, "UpdateThatWritesNothing"},
	"a new version when f writes nothing":         {versions, "UpdateThatWritesNothing"},
	"knows no guess":                              {versions, "ARightGuessIsWritten"},
	"compares pointers":                           {versions, "ARightGuessIsWritten"},
	"guesses of nothing are wrong":                {versions, "ARightGuessIsWritten"},
	"calls f after a right guess":                 {versions, "ARightGuessIsWritten"},
	"does not write what is the same":             {versions, "ARightGuessIsWritten"},
	"takes any token":                             {versions, "AWrongGuessIsNotWritten"},
	"takes an empty token for any":                {versions, "AWrongGuessIsNotWritten"},
	"takes any token where nothing is there":      {versions, "AWrongGuessIsNotWritten"},
	"an emptied record is nothing to a guess":     {versions, "AWrongGuessIsNotWritten"},
	"takes the start of a token":                  {versions, "AWrongGuessIsNotWritten"},
	"takes a token with more":                     {versions, "AWrongGuessIsNotWritten"},
	"writes a wrong guess when f leaves":          {versions, "AWrongGuessIsNotWritten"},
	"writes a wrong guess when f fails":           {versions, "AWrongGuessIsNotWritten"},
	"an error for a wrong guess":                  {versions, "AWrongGuessIsNotWritten"},
	"f gets nothing after a wrong guess":          {versions, "AWrongGuessIsNotWritten"},
	"takes tokens of 32 bytes":                    {versions, "NoTokenOfOthersIsRight"},
	"takes a token of zeros for none":             {versions, "NoTokenOfOthersIsRight"},
	"an error for a token of 9 bytes":             {versions, "NoTokenOfOthersIsRight"},
	"an error when a record came back":            {contents, "ARecordThatCameBackDoesNoHarm"},
	"update looks, then puts":                     {versions, "UpdatesThatOverlap"},
	"update of nothing puts":                      {versions, "UpdatesThatOverlap"},
	"update sees updates only":                    {versions, "AWriteDuringAnUpdateIsNotLost"},
	"writes what f returned first":                {versions, "AWriteDuringAnUpdateIsNotLost"},
	"compares the first of several":               {versions, "AConflictInOneRecordWritesNone"},
	"writes those of several that did not change": {versions, "AConflictInOneRecordWritesNone"},
	"writes what f returned before and leaves":    {versions, "AConflictInOneRecordWritesNone"},
	"f gets again what it got":                    {versions, "AConflictInOneRecordWritesNone"},
	"writes back what f leaves":                   {versions, "WhatIsLeftIsNotWrittenBack"},
	"writes when it gives up":                     {versions, "AnUpdateThatGivesUpWroteNothing"},
	"another error when it gives up":              {versions, "AnUpdateThatGivesUpWroteNothing"},
	"compares, then writes":                       {versions, "NoUpdateIsLost"},
	"writes one after the other":                  {versions, "UpdatesOfTwoRecordsAreWhole"},
	"does not look at the context":                {versions, "AnEndedContextEndsCalls"},
	"guesses do not look at the context":          {versions, "AnEndedContextEndsCalls"},
	"keeps its lock when the context ends":        {locks, "AContextCancelledDuringAnUpdate"},
	"writes half when the context ends":           {versions, "AContextCancelledDuringAnUpdate"},
	"writes, and says it has not":                 {versions, "AContextCancelledDuringAnUpdate"},
	"writes, and reports the end of the context":  {versions, ""}, // as may be
}

const brokenEnv = "TIERTEST_BROKEN"

// TestBroken is what the next test runs in processes of its own.
func TestBroken(t *testing.T) {
	fault := os.Getenv(brokenEnv)
	if fault == "" {
		t.Skip("run by TestTheSuiteFindsWhatIsBroken")
	}
	tiertest.TestBackup(t, func(t *testing.T) tier.Backup {
		m := &memory{way: broken[fault].way, fault: fault}
		switch {
		case fault == "is not comparable":
			return struct {
				tier.Backup
				_ func()
			}{Backup: m}
		case m.way == contents:
			return hashing{m}
		}
		return m
	})
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
	versions way = "versions" // tokens are drawn
	contents way = "contents" // tokens are hashes of the content
	locks    way = "locks"    // tokens are drawn, and an update locks its records
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
	record  *tier.Record
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
	switch {
	case m.is("ids in lower case"):
		return strings.ToLower(id)
	case m.is("ids cut off"):
		return id[:min(len(id), 120)]
	case m.is("escapes to an id of another") && strings.HasPrefix(id, "__") && strings.HasSuffix(id, "__"):
		return id + "."
	}
	return id
}

// lock locks records, and returns their release.
func (m *memory) lock(ctx context.Context, ids ...string) (release func(), err error) {
	if m.way != locks {
		return func() {}, nil
	}
	var held []chan struct{}
	release = func() {
		for _, l := range held {
			<-l
		}
	}
	for _, id := range slices.Sorted(slices.Values(ids)) {
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
			held = append(held, l)
		case <-ctx.Done():
			release()
			return nil, ctx.Err()
		}
	}
	return release, nil
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
		r = k.before
	}
	if m.is("hands on its pointer") {
		return r, nil
	}
	handed := *r
	if !m.is("hands on its slice") && !m.is("keeps the slice") {
		handed.Value = bytes.Clone(r.Value)
	}
	if !m.is("hands on its token") && !m.is("compares pointers") {
		handed.Token = bytes.Clone(r.Token)
	}
	return &handed, nil
}

// token returns the token of a record.
func (m *memory) token(r *tier.Record) []byte {
	token := fmt.Append(nil, "v", m.version)
	switch {
	case m.is("no tokens"), m.is("an emptied record has no token") && len(r.Value) == 0:
		return nil
	case m.is("tokens of 65 bytes"):
		return fmt.Appendf(nil, "%065d", m.version)
	case m.way == contents:
		sum := sha256.Sum256(fmt.Append(nil, r.Expires.UnixNano(), " ", string(r.Value)))
		if m.is("tokens of the value alone") {
			sum = sha256.Sum256(r.Value)
		}
		token = sum[:]
	}
	return token
}

// check returns an error if a value is too large, and may cut it off.
func (m *memory) check(r *tier.Record) error {
	limit := maxValue
	if m.is("takes less than its largest value") {
		limit -= 10
	}
	switch {
	case len(r.Value) <= limit:
		return nil
	case m.is("writes the start of what is too large"):
		r.Value = r.Value[:limit]
		return nil
	case m.is("another error for what is too large"):
		return errClosed
	}
	return tier.ErrTooLarge
}

// write writes a record and returns its token. The caller holds the lock.
func (m *memory) write(id string, r tier.Record, update bool) []byte {
	if m.records == nil {
		m.records = map[string]*kept{}
	}
	r.Expires = r.Expires.Truncate(time.Microsecond)
	switch {
	case m.is("loses microseconds"):
		r.Expires = r.Expires.Truncate(time.Second)
	case m.is("rounds to milliseconds"):
		r.Expires = r.Expires.Round(time.Millisecond)
	}
	if !m.is("keeps the slice") {
		r.Value = bytes.Clone(r.Value)
	}
	m.version++
	if !(m.is("writes the token it is given") && !update || m.is("update keeps a token that is set") && update) || len(r.Token) == 0 {
		r.Token = m.token(&r)
	}
	next := &kept{record: &r, version: m.version}
	if k := m.records[m.key(id)]; k != nil {
		next.before, next.updates = k.record, k.updates
	}
	if update {
		next.updates++
	}
	m.records[m.key(id)] = next
	if m.is("hands on its token") {
		return r.Token
	}
	return bytes.Clone(r.Token)
}

func (m *memory) Put(ctx context.Context, id string, r tier.Record) error {
	if err := errors.Join(m.ended(ctx), m.check(&r)); err != nil {
		return err
	}
	release, err := m.lock(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.write(id, r, false)
	return nil
}

func (m *memory) Insert(ctx context.Context, id string, r tier.Record) error {
	if err := errors.Join(m.ended(ctx), m.check(&r)); err != nil {
		return err
	}
	release, err := m.lock(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	m.mu.Lock()
	defer m.mu.Unlock()
	there := m.records[m.key(id)] != nil
	if m.is("insert looks, then puts") {
		m.pause()
	}
	if there && !m.insertOverwrites {
		if m.is("insert overwrites and refuses") {
			m.write(id, r, false)
		}
		return tier.ErrExists
	}
	m.write(id, r, false)
	return nil
}

// pause gives others a turn.
func (m *memory) pause() {
	m.mu.Unlock()
	time.Sleep(time.Millisecond)
	m.mu.Lock()
}

func (m *memory) Update(ctx context.Context, ids []string, guess *tier.Guess, f func([]*tier.Record) ([]*tier.Record, error)) error {
	if err := m.ended(ctx); err != nil && !(guess != nil && m.is("guesses do not look at the context")) {
		return err
	}
	if m.is("the order of the ids themselves") {
		ids = slices.Sorted(slices.Values(ids))
	}
	release, err := m.lock(ctx, ids...)
	if err != nil {
		return err
	}
	if m.is("keeps its lock when the context ends") {
		defer func() {
			if ctx.Err() == nil {
				release()
			}
		}()
	} else if !m.is("keeps its lock when f writes nothing") {
		defer release()
	}
	if guess != nil && !m.is("knows no guess") {
		right, err := m.guess(ids[0], guess)
		if right || err != nil {
			if m.is("calls f after a right guess") {
				_, _ = f([]*tier.Record{nil})
			}
			return err
		}
	}
	var current, first, last []*tier.Record
	for range cmp.Or(m.rounds, 100) {
		if current == nil || !m.is("f gets again what it got") {
			if current, err = m.current(ids, guess != nil); err != nil {
				return err
			}
		}
		before := current
		if m.is("keeps what an update was given") {
			m.keep(ids, current)
		}
		next, err := f(current)
		switch {
		case err != nil && m.is("writes although f failed"),
			err != nil && m.is("writes a wrong guess when f fails") && guess != nil,
			err == nil && m.is("writes a wrong guess when f leaves") && guess != nil && next[0] == nil:
			if guess != nil {
				next = []*tier.Record{guess.Next}
			}
			_, _ = m.replace(ctx, ids, current, next)
			return err
		case err != nil && m.is("wraps the error of f"):
			return fmt.Errorf("f: %w", err)
		case errors.Is(err, tier.ErrContention) && m.is("calls f again for its ErrContention"):
			_, err = f(current)
			return errors.Join(err)
		case err != nil:
			return err
		}
		if m.is("a new version when f writes nothing") && allNil(next) {
			next = slices.Clone(next)
			for i, r := range next {
				if r == nil && before[i] != nil {
					next[i] = &tier.Record{Value: before[i].Value, Expires: before[i].Expires}
				}
			}
		}
		if m.is("writes what f returned before and leaves") && last != nil {
			for i, r := range last {
				if next[i] == nil {
					next[i] = r
				}
			}
		}
		if first == nil {
			first = next
		}
		if m.is("writes what f returned first") {
			next = first
		}
		done, err := m.replace(ctx, ids, current, next)
		if err != nil {
			return err
		}
		if done {
			if !allNil(next) && m.is("keeps its lock when f writes nothing") {
				release()
			}
			return nil
		}
		if m.is("writes when it gives up") && last != nil {
			m.mu.Lock()
			m.write(ids[0], *next[0], true)
			m.mu.Unlock()
			return tier.ErrContention
		}
		last = next
	}
	if m.is("another error when it gives up") {
		return errClosed
	}
	return tier.ErrContention
}

func allNil(records []*tier.Record) bool {
	return !slices.ContainsFunc(records, func(r *tier.Record) bool { return r != nil })
}

// guess writes a guess if it is right.
func (m *memory) guess(id string, g *tier.Guess) (right bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	there := m.records[m.key(id)]
	var token []byte
	if there != nil {
		token = there.record.Token
	}
	right = bytes.Equal(g.Token, token)
	n := len(g.Token)
	switch m.fault {
	case "compares pointers":
		right = n == len(token) && unsafe.SliceData(g.Token) == unsafe.SliceData(token)
	case "guesses of nothing are wrong":
		right = right && n > 0
	case "takes any token":
		right = true
	case "takes an empty token for any":
		right = right || n == 0
	case "takes any token where nothing is there":
		right = right || there == nil
	case "an emptied record is nothing to a guess":
		right = right || n == 0 && len(there.record.Value) == 0
	case "takes the start of a token":
		right = right || n > 0 && bytes.HasPrefix(token, g.Token)
	case "takes a token with more":
		right = right || len(token) > 0 && bytes.HasPrefix(g.Token, token)
	case "takes tokens of 32 bytes":
		right = right || n == 32
	case "takes a token of zeros for none":
		right = right || there == nil && len(bytes.Trim(g.Token, "\x00")) == 0
	case "an error for a token of 9 bytes":
		if n == 9 {
			return false, errClosed
		}
	case "an error for a wrong guess":
		if !right {
			return false, errClosed
		}
	case "an error when a record came back":
		if right && there != nil && there.version != 1 && there.updates == 0 {
			return false, errClosed
		}
	}
	if !right {
		return false, nil
	}
	if err := m.check(g.Next); err != nil {
		return false, err
	}
	if m.is("guesses take less") && len(g.Next.Value) == maxValue {
		return false, tier.ErrTooLarge
	}
	if m.is("does not write what is the same") && there != nil && bytes.Equal(there.record.Value, g.Next.Value) && there.record.Expires.Equal(g.Next.Expires) {
		return true, nil
	}
	token = m.write(id, *g.Next, true)
	if !m.is("a guess sets no token") {
		g.Next.Token = token
	}
	if m.is("update changes its guess") {
		g.Token = token
		g.Next.Value = append(g.Next.Value, '!')
	}
	return true, nil
}

// current returns what an update gives to f.
func (m *memory) current(ids []string, guessed bool) ([]*tier.Record, error) {
	current := make([]*tier.Record, len(ids))
	for i, id := range ids {
		r, err := m.get(id)
		if err != nil {
			return nil, err
		}
		switch {
		case r == nil && m.is("an emptied record for nothing"):
			r = &tier.Record{}
		case r != nil && m.is("nothing for an emptied record") && len(r.Value) == 0,
			guessed && m.is("f gets nothing after a wrong guess"):
			r = nil
		case r != nil && m.is("f gets no tokens"):
			r.Token = nil
		}
		current[i] = r
	}
	return current, nil
}

// keep keeps the very records that f gets.
func (m *memory) keep(ids []string, current []*tier.Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, id := range ids {
		if k := m.records[m.key(id)]; k != nil {
			k.record = current[i]
		}
	}
}

// replace writes next if what it replaces is current.
func (m *memory) replace(ctx context.Context, ids []string, current, next []*tier.Record) (done bool, err error) {
	if err := m.ended(ctx); err != nil {
		half := m.is("writes half when the context ends")
		if half || m.is("writes, and reports the end of the context") || m.is("writes, and says it has not") {
			m.mu.Lock()
			defer m.mu.Unlock()
			for i, id := range ids {
				if !half || i == 0 && len(ids) > 1 {
					m.write(id, *next[i], true)
				}
			}
		}
		if m.is("writes, and says it has not") {
			return false, fmt.Errorf("%w: %w", tier.ErrNotWritten, err)
		}
		return false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	writes := make([]bool, len(ids))
	changed := false
	for i, id := range ids {
		if next[i] == nil {
			continue
		}
		writes[i] = true
		if !m.same(m.records[m.key(id)], current[i]) && !(i > 0 && m.is("compares the first of several")) {
			changed = true
			writes[i] = false
		}
	}
	if m.is("compares, then writes") {
		m.pause() // others compare as well
	}
	if changed && !m.is("writes those of several that did not change") {
		return false, nil
	}
	for i := range ids {
		if writes[i] {
			if err := m.check(next[i]); err != nil {
				if m.is("writes the others of what is too large") && i > 0 {
					m.write(ids[0], *next[0], true)
				}
				return false, err
			}
		}
	}
	some := slices.Contains(next, nil) && !allNil(next)
	var firstToken []byte
	for i, id := range ids {
		if !writes[i] {
			switch {
			case next[i] == nil && some && m.is("deletes what f leaves"):
				delete(m.records, m.key(id))
			case current[i] != nil && m.is("writes back what f leaves"):
				m.write(id, *current[i], true)
			}
			continue
		}
		if i > 0 && m.is("writes the first of several") || some && m.is("leaves all when f leaves one") {
			continue
		}
		if i > 0 && m.is("writes one after the other") {
			m.pause()
		}
		token := m.write(id, *next[i], true)
		if firstToken == nil {
			firstToken = token
		}
		switch {
		case m.is("update sets no token"):
		case m.is("update sets the first token"):
			next[i].Token = firstToken
		default:
			next[i].Token = token
		}
	}
	return !changed, nil
}

// same reports whether what is kept is what an update was made from.
func (m *memory) same(k *kept, current *tier.Record) bool {
	if m.is("update looks, then puts") || m.is("update of nothing puts") && current == nil || m.is("f gets no tokens") {
		return true
	}
	if k == nil || current == nil {
		return k == nil && (current == nil || m.is("an emptied record for nothing") && current.Value == nil) ||
			m.is("nothing for an emptied record") && current == nil && len(k.record.Value) == 0
	}
	return bytes.Equal(k.record.Token, current.Token) || m.is("update sees updates only") && k.updates == 0
}

// hashing is a memory whose tokens are known beforehand.
type hashing struct{ *memory }

func (h hashing) TokenOf(r tier.Record) []byte {
	if !h.is("knows tokens of the nanosecond") {
		r.Expires = r.Expires.Truncate(time.Microsecond)
	}
	return h.token(&r)
}

func (m *memory) MaxValue(string) int    { return maxValue }
func (m *memory) ValidID(id string) bool { return id != "" }
