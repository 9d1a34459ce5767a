package tiertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gaesession/gaesession/tier"
)

// backupPatience is how long a call may take that waits for nobody. It is less
// in this package's own tests.
var backupPatience = 15 * time.Second

// TestBackup shows whether a Backup keeps its contract. It calls newBackup for
// each of its parts, which run one after the other; all of them may get the same
// Backup, and share a service with others, since every part draws ids of its
// own. It leaves its records there, all with an end within a year.
//
// Where a service locks records, a part that makes updates overlap may take as
// long as the service waits for a lock.
func TestBackup(t *testing.T, newBackup func(t *testing.T) tier.Backup) {
	for _, part := range []struct {
		name string
		test func(*backup)
	}{
		{"ItIsComparable", backupComparable},
		{"NothingIsThere", backupNothing},
		{"GetReturnsWhatWasPut", backupRoundTrip},
		{"AReadSeesEveryWriteBeforeIt", backupReads},
		{"NothingIsShared", backupShared},
		{"ExpiredRecordsStayForTheGrace", backupExpired},
		{"IdsAreToldApart", backupIDs},
		{"InsertIsTheFirst", backupInsert},
		{"OnlyOneOfManyInsertsIsTheFirst", backupInserts},
		{"TheLargestValueIsKept", backupLargest},
		{"TokensNameVersions", backupTokens},
		{"UpdateReplacesWhatIsThere", backupUpdate},
		{"UpdateLeavesWhatFLeaves", backupLeaves},
		{"UpdateThatWritesNothing", backupWritesNothing},
		{"ARightGuessIsWritten", backupRightGuess},
		{"AWrongGuessIsNotWritten", backupWrongGuess},
		{"NoTokenOfOthersIsRight", backupForeignTokens},
		{"ARecordThatCameBackDoesNoHarm", backupCameBack},
		{"UpdatesThatOverlap", backupOverlap},
		{"AWriteDuringAnUpdateIsNotLost", backupWriteDuringUpdate},
		{"AConflictInOneRecordWritesNone", backupConflict},
		{"WhatIsLeftIsNotWrittenBack", backupWriteToLeft},
		{"AnUpdateThatGivesUpWroteNothing", backupContention},
		{"NoUpdateIsLost", backupCounter},
		{"UpdatesOfTwoRecordsAreWhole", backupCounters},
		{"AnEndedContextEndsCalls", backupEnded},
		{"AContextCancelledDuringAnUpdate", backupCancelledDuring},
	} {
		t.Run(part.name, func(t *testing.T) {
			part.test(&backup{T: t, Backup: newBackup(t), ctx: context.Background()})
		})
	}
}

// backup is a Backup under test.
type backup struct {
	*testing.T
	tier.Backup
	ctx context.Context
}

func newID() string { return fmt.Sprintf("tiertest-%016x%016x", rand.Uint64(), rand.Uint64()) }

// record returns a record that ends soon, at a time with microseconds.
func record(value string) tier.Record {
	return tier.Record{Value: []byte(value), Expires: inAnHour()}
}

func inAnHour() time.Time {
	return time.Now().Add(time.Hour).Truncate(time.Second).Add(123457 * time.Microsecond)
}

func sameRecord(a, b *tier.Record) bool {
	if a == nil || b == nil {
		return a == b
	}
	return bytes.Equal(a.Value, b.Value) && a.Expires.Equal(b.Expires)
}

func describeRecord(r *tier.Record) string {
	if r == nil {
		return "nothing"
	}
	value := r.Value
	if len(value) > 40 {
		value = value[:40]
	}
	return fmt.Sprintf("%d bytes %q until %s", len(r.Value), value, r.Expires.UTC().Format(time.RFC3339Nano))
}

func (b *backup) put(id string, r tier.Record) {
	b.Helper()
	if err := b.Put(b.ctx, id, r); err != nil {
		b.Fatalf("put %s: %v", describeRecord(&r), err)
	}
}

// with puts a record under a new id, and returns both, as they are there.
func (b *backup) with(r tier.Record) (id string, there *tier.Record) {
	b.Helper()
	id = newID()
	b.put(id, r)
	return id, b.there(id)
}

func (b *backup) get(id string) *tier.Record {
	b.Helper()
	r, err := b.Get(b.ctx, id)
	if err != nil {
		b.Fatalf("get: %v", err)
	}
	return r
}

// there is get where something must be there.
func (b *backup) there(id string) *tier.Record {
	b.Helper()
	r := b.get(id)
	if r == nil {
		b.Fatal("got nothing, although a record was written")
	}
	return r
}

// wants fails unless want is what is there.
func (b *backup) wants(id string, want *tier.Record, when string) {
	b.Helper()
	if got := b.get(id); !sameRecord(got, want) {
		b.Errorf("%s: got %s, want %s", when, describeRecord(got), describeRecord(want))
	}
}

// wantsAll is wants for several.
func (b *backup) wantsAll(ids []string, want []*tier.Record, when string) {
	b.Helper()
	for i, id := range ids {
		b.wants(id, want[i], fmt.Sprintf("%s, record %d of %d", when, i+1, len(ids)))
	}
}

// soon fails unless a call that waits for nobody ends.
func (b *backup) soon(what string, call func() error) {
	b.Helper()
	done := make(chan error, 1)
	go func() { done <- call() }()
	select {
	case err := <-done:
		if err != nil {
			b.Errorf("%s: %v", what, err)
		}
	case <-time.After(backupPatience):
		b.Fatalf("%s: does not end", what)
	}
}

func backupComparable(b *backup) {
	if !reflect.ValueOf(b.Backup).Comparable() {
		b.Errorf("a %T is not comparable", b.Backup)
	}
}

func backupNothing(b *backup) {
	b.wants(newID(), nil, "of an id never used")
}

func backupRoundTrip(b *backup) {
	everyByte := make([]byte, 256)
	for i := range everyByte {
		everyByte[i] = byte(i)
	}
	now := time.Now().Truncate(time.Second)
	id := newID() // the same: every put takes the place of the one before
	for name, r := range map[string]tier.Record{
		"text":                   {Value: []byte("text"), Expires: now},
		"every byte":             {Value: everyByte, Expires: now},
		"empty":                  {Value: []byte{}, Expires: now},
		"nil":                    {Expires: now},
		"zero bytes":             {Value: make([]byte, 3), Expires: now},
		"4 KB":                   {Value: bytes.Repeat(everyByte, 16), Expires: now},
		"a microsecond":          {Value: []byte("m"), Expires: now.Add(time.Microsecond)},
		"all but a microsecond":  {Value: []byte("m"), Expires: now.Add(time.Second - time.Microsecond)},
		"another zone":           {Value: []byte("z"), Expires: now.In(time.FixedZone("Z", 5*3600+1800))},
		"in a hundred days":      {Value: []byte("d"), Expires: now.AddDate(0, 0, 100)},
		"with somebody's token":  {Value: []byte("t"), Expires: now, Token: []byte("token")},
		"with a monotonic clock": {Value: []byte("c"), Expires: time.Now().Add(time.Hour)},
	} {
		b.put(id, r)
		got := b.get(id)
		switch {
		case got == nil:
			b.Errorf("%s: got nothing", name)
		case !bytes.Equal(got.Value, r.Value):
			b.Errorf("%s: got %s, want %s", name, describeRecord(got), describeRecord(&r))
		case got.Expires.Sub(r.Expires).Abs() >= time.Microsecond:
			b.Errorf("%s: got until %v, want %v", name, got.Expires, r.Expires)
		case r.Expires.Nanosecond()%1000 == 0 && !got.Expires.Equal(r.Expires):
			b.Errorf("%s: got until %v, want exactly %v", name, got.Expires, r.Expires)
		}
	}
}

// backupReads writes numbers that grow, and reads them meanwhile.
func backupReads(b *backup) {
	const readers, writes = 4, 25
	id := newID()
	b.put(id, record("0"))
	var (
		written atomic.Int64
		ended   atomic.Bool
		all     sync.WaitGroup
	)
	for range readers {
		all.Add(1)
		go func() {
			defer all.Done()
			for !ended.Load() {
				least := written.Load()
				r, err := b.Get(b.ctx, id)
				if err != nil || r == nil {
					b.Errorf("got %v, %v", r, err)
					return
				}
				if n, err := strconv.ParseInt(string(r.Value), 10, 64); err != nil || n < least {
					b.Errorf("got %q after %d was written (%v)", r.Value, least, err)
					return
				}
			}
		}()
	}
	for n := int64(1); n <= writes; n++ {
		r := record(strconv.FormatInt(n, 10))
		var err error
		if n%2 == 0 {
			err = b.Put(b.ctx, id, r)
		} else {
			err = b.update([]string{id}, nil, replacing(&r))
		}
		if err != nil {
			b.Errorf("write %d: %v", n, err)
			break
		}
		written.Store(n)
	}
	ended.Store(true)
	all.Wait()
}

func backupExpired(b *backup) {
	id := newID()
	r := record("expired")
	r.Expires = time.Now().Add(time.Minute - tier.PurgeGrace).Truncate(time.Microsecond)
	b.put(id, r)
	b.wants(id, &r, "a minute before the grace ends")
	if err := b.update([]string{id}, nil, each(func(current *tier.Record) *tier.Record {
		if !sameRecord(current, &r) {
			b.Errorf("update sees %s, want %s", describeRecord(current), describeRecord(&r))
		}
		return nil
	})); err != nil {
		b.Error(err)
	}
}

func backupIDs(b *backup) {
	base := newID()
	ids := slices.DeleteFunc([]string{
		base, base + "A", base + "a", base + " ", " " + base, base + "/", base + "//", base + "%2F", base + "\n", base + "\x00",
		base + "é", base + "e\u0301", base + "*", base + "?", base + "'", base + `"`, base + `\`, base + ":", base + ".", base + "..",
		base + strings.Repeat("l", 100), base + strings.Repeat("l", 101),
		"__" + base + "__", "__" + base + "__.", "__" + base + "__..", "__" + base + "___", "__" + base, base + "__",
	}, func(id string) bool { return !b.ValidID(id) })
	if len(ids) == 0 || ids[0] != base {
		b.Fatalf("letters, digits and a hyphen are no valid id")
	}
	records := make([]tier.Record, len(ids))
	for i, id := range ids {
		records[i] = record(strconv.Itoa(i))
		b.put(id, records[i])
	}
	for i, id := range ids {
		b.wants(id, &records[i], fmt.Sprintf("under an id that ends in %q", strings.TrimPrefix(id, base)))
	}
}

func backupInsert(b *backup) {
	id := newID()
	first, second := record("first"), record("second")
	if err := b.Insert(b.ctx, id, first); err != nil {
		b.Fatalf("the first insert: %v", err)
	}
	b.wants(id, &first, "after the first insert")
	b.inserts(id, first, second)

	removed := newID()
	emptied := record("")
	b.put(removed, emptied)
	b.inserts(removed, emptied, second)
}

// inserts inserts second where first is.
func (b *backup) inserts(id string, first, second tier.Record) {
	b.Helper()
	switch err := b.Insert(b.ctx, id, second); {
	case err == nil: // not conditional
		b.wants(id, &second, "after a second insert that overwrote")
	case errors.Is(err, tier.ErrExists):
		b.wants(id, &first, "after a second insert that was refused")
	default:
		b.Errorf("the second insert: got %v, want ErrExists", err)
	}
}

func backupInserts(b *backup) {
	const inserts = 8
	probe := newID()
	b.put(probe, record("there"))
	conditional := errors.Is(b.Insert(b.ctx, probe, record("second")), tier.ErrExists)

	id := newID()
	var all sync.WaitGroup
	records, errs := make([]tier.Record, inserts), make([]error, inserts)
	for i := range inserts {
		all.Add(1)
		go func() {
			defer all.Done()
			records[i] = record(strconv.Itoa(i))
			errs[i] = b.Insert(b.ctx, id, records[i])
		}()
	}
	all.Wait()
	there := b.get(id)
	won, found := 0, false
	for i, err := range errs {
		if err == nil {
			won++
			found = found || sameRecord(there, &records[i])
		} else if !errors.Is(err, tier.ErrExists) {
			b.Errorf("insert %d: got %v, want ErrExists", i, err)
		}
	}
	if conditional && won != 1 {
		b.Errorf("%d inserts succeeded, want 1", won)
	}
	if !found {
		b.Errorf("got %s, want what one of the %d inserts wrote that succeeded", describeRecord(there), won)
	}
}

func backupLargest(b *backup) {
	const testable = 16 << 20
	id := newID()
	size := b.MaxValue(id)
	if size < 1 {
		b.Fatalf("a value may have %d bytes", size)
	}
	limited := size < testable
	if !limited {
		b.Logf("a value may have %d bytes: tested with %d", size, testable)
		size = testable
	}
	largest := func() *tier.Record {
		r := record("")
		r.Value = make([]byte, size)
		for i := range r.Value {
			r.Value[i] = byte(rand.Uint32())
		}
		return &r
	}
	first := largest()
	b.put(id, *first)
	b.wants(id, first, "the largest value")
	if err := b.Insert(b.ctx, newID(), *largest()); err != nil {
		b.Errorf("insert the largest value: %v", err)
	}
	second := largest()
	if err := b.update([]string{id}, nil, replacing(second)); err != nil {
		b.Errorf("update to the largest value: %v", err)
	}
	b.wants(id, second, "the largest value, updated")
	third := largest()
	if err := b.update([]string{id}, &tier.Guess{Token: second.Token, Next: third}, b.failing); err != nil {
		b.Errorf("update to the largest value by a guess: %v", err)
	}
	b.wants(id, third, "the largest value, guessed")
	if !limited {
		return
	}

	over := record("")
	over.Value = make([]byte, 2*size)
	small := record("small")
	b.put(id, small)
	token := b.there(id).Token
	other, free := newID(), newID()
	for name, write := range map[string]func() error{
		"put":                 func() error { return b.Put(b.ctx, id, over) },
		"insert":              func() error { return b.Insert(b.ctx, free, over) },
		"update":              func() error { return b.update([]string{id}, nil, replacing(&over)) },
		"update with a guess": func() error { return b.update([]string{id}, &tier.Guess{Token: token, Next: &over}, b.failing) },
		"update of two": func() error {
			next := record("next")
			return b.update([]string{other, id}, nil, replacing(&next, &over))
		},
	} {
		if err := write(); !errors.Is(err, tier.ErrTooLarge) {
			b.Errorf("%s with twice the largest value: got %v, want ErrTooLarge", name, err)
		}
		b.wants(id, &small, "after a "+name+" that is too large")
	}
	b.wants(free, nil, "after an insert that is too large")
	b.wants(other, nil, "after an update of two records, one of which is too large")
}
