package tiertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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

const (
	// backupHeld is how long a rival's call gets to end while an update is held
	// inside its function. Where it cannot, since the service locks the record,
	// it ends after the update.
	backupHeld = 300 * time.Millisecond
)

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
		{"NothingIsThere", backupNothing},
		{"GetReturnsWhatWasPut", backupRoundTrip},
		{"AReadSeesEveryWriteBeforeIt", backupReads},
		{"SlicesBelongToTheCaller", backupSlices},
		{"ExpiredRecordsStayForTheGrace", backupExpired},
		{"IdsAreToldApart", backupIDs},
		{"InsertIsTheFirst", backupInsert},
		{"OnlyOneOfManyInsertsIsTheFirst", backupInserts},
		{"WhatFitsIsKept", backupFits},
		{"TokensNameVersions", backupTokens},
		{"UpdateOfNothing", backupUpdateNothing},
		{"UpdateWithAndWithoutAnIdeaOfWhatIsThere", backupUpdate},
		{"UpdateThatWritesNothing", backupUpdateWritesNothing},
		{"UpdatesThatOverlap", backupOverlap},
		{"AWriteDuringAnUpdateIsNotLost", backupWriteDuringUpdate},
		{"AnUpdateThatGivesUpWroteNothing", backupContention},
		{"NoUpdateIsLost", backupCounter},
		{"ACancelledContextEndsCalls", backupCancelled},
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

type updateFunc = func(current *tier.Record) (*tier.Record, error)

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

// update updates, and tries again after contention.
func (b *backup) update(id string, known *tier.Record, f updateFunc) error {
	b.Helper()
	for range 100 {
		if err := b.Update(b.ctx, id, known, f); !errors.Is(err, tier.ErrContention) {
			return err
		}
	}
	return errors.New("contention in 100 attempts")
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
			err = b.update(id, nil, func(*tier.Record) (*tier.Record, error) { return &r, nil })
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

func backupSlices(b *backup) {
	id := newID()
	r := record("value")
	b.put(id, r)
	want := record("value")
	want.Expires = r.Expires
	r.Value[0] = 'X'
	b.wants(id, &want, "after the slice that was put has changed")
	b.there(id).Value[0] = 'Y'
	b.wants(id, &want, "after the slice that was got has changed")

	made := record("made")
	known := b.there(id)
	if err := b.update(id, known, func(*tier.Record) (*tier.Record, error) { return &made, nil }); err != nil {
		b.Fatal(err)
	}
	if !sameRecord(known, &want) {
		b.Errorf("update has changed what it was given as known: %s", describeRecord(known))
	}
	want = record("made")
	want.Expires = made.Expires
	made.Value[0] = 'Z'
	b.wants(id, &want, "after the slice that an update wrote has changed")

	other := newID()
	inserted := record("value")
	if err := b.Insert(b.ctx, other, inserted); err != nil {
		b.Fatal(err)
	}
	want = record("value")
	want.Expires = inserted.Expires
	inserted.Value[0] = 'X'
	b.wants(other, &want, "after the slice that was inserted has changed")
}

func backupExpired(b *backup) {
	id := newID()
	r := record("expired")
	r.Expires = time.Now().Add(time.Minute - tier.PurgeGrace).Truncate(time.Microsecond)
	b.put(id, r)
	b.wants(id, &r, "a minute before the grace ends")
	if err := b.update(id, nil, func(current *tier.Record) (*tier.Record, error) {
		if !sameRecord(current, &r) {
			b.Errorf("update sees %s, want %s", describeRecord(current), describeRecord(&r))
		}
		return nil, nil
	}); err != nil {
		b.Error(err)
	}
}

func backupIDs(b *backup) {
	base := newID()
	ids := slices.DeleteFunc([]string{
		base, base + "A", base + "a", base + " ", " " + base, base + "/", base + "//", base + "%2F", base + "\n", base + "\x00",
		base + "é", base + "e\u0301", base + "*", base + "?", base + "'", base + `"`, base + `\`, base + ":", base + ".", base + "..",
		base + strings.Repeat("l", 100), base + strings.Repeat("l", 101),
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

func backupFits(b *backup) {
	const unlimited = 16 << 20
	id := newID()
	if !b.Fits(id, 0) {
		b.Fatal("an empty value does not fit")
	}
	fits, fitsNot := 0, unlimited
	for fitsNot-fits > 1 {
		if middle := (fits + fitsNot) / 2; b.Fits(id, middle) {
			fits = middle
		} else {
			fitsNot = middle
		}
	}
	largest := record("")
	largest.Value = make([]byte, fits)
	for i := range largest.Value {
		largest.Value[i] = byte(rand.Uint32())
	}
	b.put(id, largest)
	b.wants(id, &largest, "the largest value that fits")
	if err := b.Insert(b.ctx, newID(), largest); err != nil && !errors.Is(err, tier.ErrExists) {
		b.Errorf("insert the largest value that fits: %v", err)
	}
	changed := largest
	changed.Value = slices.Clone(largest.Value)
	changed.Value[0]++
	if err := b.update(id, nil, func(*tier.Record) (*tier.Record, error) { return &changed, nil }); err != nil {
		b.Errorf("update to the largest value that fits: %v", err)
	}
	b.wants(id, &changed, "the largest value that fits, updated")
	if b.Fits(id, unlimited) || fitsNot == unlimited {
		b.Logf("%d bytes fit", fits)
		return
	}

	over := record("")
	over.Value = make([]byte, 2*fitsNot)
	small := record("small")
	b.put(id, small)
	for name, write := range map[string]func() error{
		"put": func() error { return b.Put(b.ctx, id, over) },
		"update": func() error {
			return b.update(id, nil, func(*tier.Record) (*tier.Record, error) { return &over, nil })
		},
		"update with known": func() error {
			return b.update(id, b.get(id), func(*tier.Record) (*tier.Record, error) { return &over, nil })
		},
	} {
		if err := write(); !errors.Is(err, tier.ErrTooLarge) {
			b.Errorf("%s twice of what does not fit: got %v, want ErrTooLarge", name, err)
		}
		b.wants(id, &small, "after a "+name+" that is too large")
	}
	other := newID()
	if err := b.Insert(b.ctx, other, over); !errors.Is(err, tier.ErrTooLarge) {
		b.Errorf("insert twice of what does not fit: got %v, want ErrTooLarge", err)
	}
	b.wants(other, nil, "after an insert that is too large")
}

func backupTokens(b *backup) {
	id := newID()
	b.put(id, record("a"))
	first := b.there(id)
	if len(first.Token) > 64 {
		b.Errorf("a token of %d bytes", len(first.Token))
	}
	var made *tier.Record
	if err := b.update(id, first, func(*tier.Record) (*tier.Record, error) {
		r := record("b")
		made = &r
		return made, nil
	}); err != nil {
		b.Fatal(err)
	}
	second := b.there(id)
	if len(first.Token) == 0 && len(second.Token) == 0 {
		b.Log("the service has no tokens")
		return
	}
	if bytes.Equal(first.Token, second.Token) {
		b.Errorf("another record has the same token %x", first.Token)
	}
	if !bytes.Equal(made.Token, second.Token) {
		b.Errorf("update set the token %x, but it is %x", made.Token, second.Token)
	}
	b.put(id, tier.Record{Value: []byte("c"), Expires: inAnHour(), Token: first.Token})
	if third := b.there(id); bytes.Equal(third.Token, first.Token) {
		b.Errorf("put wrote the token it was given")
	}
}

func backupUpdateNothing(b *backup) {
	somebody := newID()
	b.put(somebody, record("somebody else's"))
	for name, known := range map[string]*tier.Record{
		"no idea":           nil,
		"a record":          {Value: []byte("gone"), Expires: inAnHour()},
		"a record of token": {Value: []byte("gone"), Expires: inAnHour(), Token: b.there(somebody).Token},
		"an emptied record": {Expires: inAnHour()},
	} {
		b.Run(name, func(t *testing.T) {
			b := &backup{t, b.Backup, b.ctx}
			id, made := newID(), record("made")
			var seen *tier.Record
			if err := b.update(id, known, func(current *tier.Record) (*tier.Record, error) {
				seen = current
				return &made, nil
			}); err != nil {
				b.Fatal(err)
			}
			if seen != nil {
				b.Errorf("the last call got %s, want nil", describeRecord(seen))
			}
			b.wants(id, &made, "after an update of nothing")
		})
	}
}

// backupUpdate appends to what is there, with everything that known may be.
func backupUpdate(b *backup) {
	other := newID()
	b.put(other, record("other"))
	otherToken := b.there(other).Token
	for name, known := range map[string]func(before, there *tier.Record) *tier.Record{
		"nil":         func(before, there *tier.Record) *tier.Record { return nil },
		"right":       func(before, there *tier.Record) *tier.Record { return there },
		"right value": func(before, there *tier.Record) *tier.Record { return without(there) },
		"before":      func(before, there *tier.Record) *tier.Record { return before },
		"value before": func(before, there *tier.Record) *tier.Record {
			return without(before)
		},
		"right value, other end": func(before, there *tier.Record) *tier.Record {
			return &tier.Record{Value: there.Value, Expires: there.Expires.Add(-time.Microsecond)}
		},
		"other value, right end": func(before, there *tier.Record) *tier.Record {
			return &tier.Record{Value: []byte("other"), Expires: there.Expires}
		},
		"right value, token before": func(before, there *tier.Record) *tier.Record {
			return &tier.Record{Value: there.Value, Expires: there.Expires, Token: before.Token}
		},
		"other value, another record's token": func(before, there *tier.Record) *tier.Record {
			return &tier.Record{Value: []byte("other"), Expires: there.Expires, Token: otherToken}
		},
		"other value, token of nobody": func(before, there *tier.Record) *tier.Record {
			return &tier.Record{Value: []byte("other"), Expires: there.Expires, Token: []byte("of another service, perhaps, and as long as a token may be: ####")}
		},
		"other value, short token": func(before, there *tier.Record) *tier.Record {
			return &tier.Record{Value: []byte("other"), Expires: there.Expires, Token: []byte{1}}
		},
		"emptied": func(before, there *tier.Record) *tier.Record { return &tier.Record{Expires: there.Expires} },
	} {
		b.Run(name, func(t *testing.T) {
			b := &backup{t, b.Backup, b.ctx}
			id := newID()
			b.put(id, record("a"))
			before := b.there(id)
			b.put(id, record("ab"))
			there := b.there(id)
			known := known(before, there)
			var seen, made *tier.Record
			if err := b.update(id, known, func(current *tier.Record) (*tier.Record, error) {
				if !sameRecord(current, there) && (known == nil || !sameRecord(current, known)) {
					b.Errorf("f got %s, which is neither known nor there", describeRecord(current))
				}
				seen = current
				r := record(string(current.Value) + "+")
				r.Expires = current.Expires.Add(time.Second)
				made = &r
				return made, nil
			}); err != nil {
				b.Fatal(err)
			}
			if !sameRecord(seen, there) {
				b.Errorf("the last call got %s, want what is there: %s", describeRecord(seen), describeRecord(there))
			}
			b.wants(id, made, "after the update")

			// What the update returned is the known of the next one.
			for range 3 {
				last := made
				if err := b.update(id, last, func(current *tier.Record) (*tier.Record, error) {
					seen = current
					r := record(string(current.Value) + "+")
					made = &r
					return made, nil
				}); err != nil {
					b.Fatal(err)
				}
				if !sameRecord(seen, last) {
					b.Errorf("the next update got %s, want %s", describeRecord(seen), describeRecord(last))
				}
			}
			emptied := record("")
			if err := b.update(id, made, func(current *tier.Record) (*tier.Record, error) { return &emptied, nil }); err != nil {
				b.Fatal(err)
			}
			b.wants(id, &emptied, "after an update that empties")
		})
	}
}

func without(r *tier.Record) *tier.Record { return &tier.Record{Value: r.Value, Expires: r.Expires} }

func backupUpdateWritesNothing(b *backup) {
	failed := errors.New("f has failed")
	contended := fmt.Errorf("f says %w", tier.ErrContention)
	for _, want := range []error{nil, failed, contended} {
		for _, there := range []bool{false, true} {
			for _, known := range []string{"nil", "right", "stale"} {
				if !b.Run(fmt.Sprintf("error %v, there %t, known %s", want, there, known), func(t *testing.T) {
					b := &backup{t, b.Backup, b.ctx}
					id := newID()
					var r *tier.Record
					if there {
						b.put(id, record("there"))
						r = b.there(id)
					}
					k := r
					switch known {
					case "nil":
						k = nil
					case "stale":
						k = &tier.Record{Value: []byte("stale"), Expires: inAnHour()}
					}
					written := record("must not be written")
					err := b.Update(b.ctx, id, k, func(current *tier.Record) (*tier.Record, error) {
						if want == nil {
							return nil, nil
						}
						return &written, want
					})
					if err != want {
						b.Errorf("got %v, want %v as it is", err, want)
					}
					b.wants(id, r, "after an update that is to write nothing")
					// And it holds nobody up.
					next := record("next")
					b.soon("the next write", func() error { return b.Put(b.ctx, id, next) })
					b.wants(id, &next, "after the next write")
				}) {
					return // the others would take as long to fail
				}
			}
		}
	}
}

// backupOverlap holds an update inside its function while another one begins.
func backupOverlap(b *backup) {
	for _, kind := range []string{"of nothing", "without known", "with known"} {
		b.Run(kind, func(t *testing.T) {
			b := &backup{t, b.Backup, b.ctx}
			id := newID()
			var known *tier.Record
			if kind != "of nothing" {
				b.put(id, record(""))
			}
			if kind == "with known" {
				known = b.there(id)
			}
			var rival rival
			errs := [2]error{}
			errs[0] = b.Update(b.ctx, id, known, appending("1", func() {
				rival.run(func() { errs[1] = b.Update(b.ctx, id, known, appending("2", nil)) })
			}))
			rival.wait()
			want := 0
			for i, err := range errs {
				switch {
				case err == nil:
					want++
				case !errors.Is(err, tier.ErrContention):
					b.Errorf("update %d: %v", i+1, err)
				}
			}
			if want == 0 {
				b.Error("both updates gave up")
			}
			var got string
			if r := b.get(id); r != nil {
				got = string(r.Value)
			}
			for i, err := range errs {
				if n := strings.Count(got, strconv.Itoa(i+1)); n != map[bool]int{true: 1, false: 0}[err == nil] {
					b.Errorf("update %d answered %v, and there is %q", i+1, err, got)
				}
			}
		})
	}
}

// appending appends to the value. The first time it calls first before.
func appending(s string, first func()) updateFunc {
	return func(current *tier.Record) (*tier.Record, error) {
		if first != nil {
			first()
			first = nil
		}
		r := record(s)
		if current != nil {
			r.Value = append(slices.Clone(current.Value), s...)
		}
		return &r, nil
	}
}

// A rival makes calls while an update is held.
type rival struct{ all sync.WaitGroup }

// run returns when the call has ended, or it is clear that the call waits for
// the end of the update.
func (r *rival) run(call func()) {
	ended := make(chan struct{})
	r.all.Add(1)
	go func() {
		defer r.all.Done()
		defer close(ended)
		call()
	}()
	select {
	case <-ended:
	case <-time.After(backupHeld):
	}
}

func (r *rival) wait() { r.all.Wait() }

// backupWriteDuringUpdate has a rival write while an update is held. Whichever
// comes last has seen the other, or is a put.
func backupWriteDuringUpdate(b *backup) {
	for name, test := range map[string]struct {
		there, known bool
		insert       bool
		value        string
	}{
		"put":                     {there: true, value: "rival's"},
		"put, with known":         {there: true, known: true, value: "rival's"},
		"put of the first record": {value: "rival's"},
		"insert":                  {insert: true, value: "rival's"},
		"same value, other end":   {there: true, value: "old"},
		"same value, with known":  {there: true, known: true, value: "old"},
		"emptied":                 {there: true},
		"emptied, with known":     {there: true, known: true},
	} {
		b.Run(name, func(t *testing.T) {
			b := &backup{t, b.Backup, b.ctx}
			id := newID()
			var known *tier.Record
			if test.there {
				b.put(id, record("old"))
			}
			if test.known {
				known = b.there(id)
			}
			written, write := record(test.value), b.Put
			written.Expires = written.Expires.Add(time.Minute)
			if test.insert {
				write = b.Insert
			}
			var (
				rival     rival
				rivalsErr error
				saw, made *tier.Record
				held      bool
			)
			err := b.Update(b.ctx, id, known, func(current *tier.Record) (*tier.Record, error) {
				if !held {
					held = true
					rival.run(func() { rivalsErr = write(b.ctx, id, written) })
				}
				r := record("updated")
				saw, made = current, &r
				return made, nil
			})
			rival.wait()
			if err != nil && !errors.Is(err, tier.ErrContention) {
				b.Fatalf("update: %v", err)
			}
			switch {
			case errors.Is(rivalsErr, tier.ErrExists):
				b.wants(id, made, "after an insert that came too late")
			case rivalsErr != nil:
				b.Errorf("the rival's write: %v", rivalsErr)
			case err == nil && sameRecord(saw, &written):
				b.wants(id, made, "after an update that saw the rival's write")
			default:
				b.wants(id, &written, "after an update that did not see the rival's write")
			}
		})
	}
}

// backupContention has a rival write in every round of an update.
func backupContention(b *backup) {
	for _, known := range []bool{false, true} {
		b.Run(fmt.Sprintf("known %t", known), func(t *testing.T) {
			b := &backup{t, b.Backup, b.ctx}
			id := newID()
			b.put(id, record("0"))
			var k *tier.Record
			if known {
				k = b.there(id)
			}
			var (
				rival  rival
				rounds int
			)
			err := b.Update(b.ctx, id, k, func(current *tier.Record) (*tier.Record, error) {
				rounds++
				written := record(fmt.Sprint("rival ", rounds))
				rival.run(func() {
					if err := b.Put(b.ctx, id, written); err != nil {
						b.Errorf("the rival's write: %v", err)
					}
				})
				r := record("updated")
				return &r, nil
			})
			rival.wait()
			b.Logf("%d rounds, %v", rounds, err)
			got := b.there(id)
			switch {
			case err != nil && !errors.Is(err, tier.ErrContention):
				b.Errorf("got %v, want ErrContention or nil", err)
			case !strings.HasPrefix(string(got.Value), "rival "): // they wrote after the last call of f
				b.Errorf("got %s, want what a rival wrote", describeRecord(got))
			}
		})
	}
}

// backupCounter counts in many goroutines.
func backupCounter(b *backup) {
	const goroutines, each = 16, 4
	id := newID()
	var (
		all    sync.WaitGroup
		counts = make(chan int, goroutines*each)
		gaveUp atomic.Int64
	)
	for g := range goroutines {
		all.Add(1)
		go func() {
			defer all.Done()
			var last *tier.Record
			for done, attempts := 0, 0; done < each; attempts++ {
				known := last
				if g%2 == 0 {
					known = nil
				}
				var count int
				err := b.Update(b.ctx, id, known, func(current *tier.Record) (*tier.Record, error) {
					count = 1
					if current != nil {
						n, err := strconv.Atoi(string(current.Value))
						if err != nil {
							return nil, err
						}
						count = n + 1
					}
					r := record(strconv.Itoa(count))
					last = &r
					return last, nil
				})
				switch {
				case err == nil:
					done++
					counts <- count
				case errors.Is(err, tier.ErrContention) && attempts < 1000:
					gaveUp.Add(1)
				default:
					b.Errorf("goroutine %d: %v", g, err)
					return
				}
			}
		}()
	}
	all.Wait()
	close(counts)
	var got []int
	for n := range counts {
		got = append(got, n)
	}
	slices.Sort(got)
	for i, n := range got {
		if n != i+1 {
			b.Fatalf("the updates counted %v, want each number once", got)
		}
	}
	b.Logf("%d updates, %d times contention", len(got), gaveUp.Load())
	if r := b.get(id); r == nil || string(r.Value) != strconv.Itoa(goroutines*each) {
		b.Errorf("got %s, want %d", describeRecord(r), goroutines*each)
	}
}

func backupCancelled(b *backup) {
	ctx, cancel := context.WithCancel(b.ctx)
	cancel()
	id, free := newID(), newID()
	there := record("there")
	b.put(id, there)
	known := b.there(id)
	other := record("other")
	write := func(*tier.Record) (*tier.Record, error) { return &other, nil }
	for name, call := range map[string]func() error{
		"get":               func() error { _, err := b.Get(ctx, id); return err },
		"put":               func() error { return b.Put(ctx, id, other) },
		"insert":            func() error { return b.Insert(ctx, free, other) },
		"update":            func() error { return b.Update(ctx, id, nil, write) },
		"update with known": func() error { return b.Update(ctx, id, known, write) },
	} {
		b.soon(name, func() error {
			if call() == nil {
				return errors.New("no error, although the context was cancelled")
			}
			return nil
		})
	}
	b.wants(id, &there, "after calls with a cancelled context")
	b.wants(free, nil, "after an insert with a cancelled context")
}

// backupCancelledDuring cancels the context inside an update's function: then
// the update may have been made or not, but it ends, and holds nobody up.
func backupCancelledDuring(b *backup) {
	for _, known := range []bool{false, true} {
		if !b.Run(fmt.Sprintf("known %t", known), func(t *testing.T) {
			b := &backup{t, b.Backup, b.ctx}
			id, there, made := newID(), record("there"), record("made")
			b.put(id, there)
			var k *tier.Record
			if known {
				k = b.there(id)
			}
			ctx, cancel := context.WithCancel(b.ctx)
			defer cancel()
			var err error
			b.soon("the update", func() error {
				err = b.Update(ctx, id, k, func(*tier.Record) (*tier.Record, error) {
					cancel()
					return &made, nil
				})
				return nil
			})
			got := b.get(id)
			if !sameRecord(got, &made) && (err == nil || !sameRecord(got, &there)) {
				b.Errorf("update answered %v, and there is %s", err, describeRecord(got))
			}
			next := record("next")
			b.soon("the next write", func() error { return b.Put(b.ctx, id, next) })
			b.wants(id, &next, "after the next write")
		}) {
			return // the other would take as long to fail
		}
	}
}
