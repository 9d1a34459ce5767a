package tiertest

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gaesession/gaesession/tier"
)

// backupHeld is how long a rival's call gets to end while an update is held
// inside its function. Where it cannot, since the service locks the record, it
// ends after the update. It is less in this package's own tests.
var backupHeld = 300 * time.Millisecond

type updateFunc = func(current []*tier.Record) ([]*tier.Record, error)

// update updates, and tries again after contention.
func (b *backup) update(ids []string, guess *tier.Guess, f updateFunc) error {
	b.Helper()
	for range 100 {
		if err := b.Update(b.ctx, ids, guess, f); !errors.Is(err, tier.ErrContention) {
			return err
		}
	}
	return errors.New("contention in 100 attempts")
}

// must is update where no error may be.
func (b *backup) must(ids []string, guess *tier.Guess, f updateFunc) {
	b.Helper()
	if err := b.update(ids, guess, f); err != nil {
		b.Fatal(err)
	}
}

// replacing returns a function that replaces whatever is there by next.
func replacing(next ...*tier.Record) updateFunc {
	return func([]*tier.Record) ([]*tier.Record, error) { return next, nil }
}

// each returns a function that replaces each record by what f makes of it.
func each(f func(current *tier.Record) *tier.Record) updateFunc {
	return func(current []*tier.Record) ([]*tier.Record, error) {
		next := make([]*tier.Record, len(current))
		for i, r := range current {
			next[i] = f(r)
		}
		return next, nil
	}
}

// failing is the function of an update whose guess is right.
func (b *backup) failing([]*tier.Record) ([]*tier.Record, error) {
	b.Error("f was called, although the guess was right")
	return nil, errors.New("f was called")
}

// appending appends to each value.
func appending(s string) updateFunc {
	return each(func(current *tier.Record) *tier.Record {
		r := record(s)
		if current != nil {
			r.Value = append(bytes.Clone(current.Value), s...)
		}
		return &r
	})
}

// sub runs f as a part of its own.
func (b *backup) sub(name string, f func(*backup)) bool {
	return b.Run(name, func(t *testing.T) { f(&backup{t, b.Backup, b.ctx}) })
}

// overwrite changes a record and everything that it points to.
func overwrite(r *tier.Record) {
	for _, s := range [][]byte{r.Value, r.Token} {
		for i := range s {
			s[i] ^= 0xff
		}
	}
	*r = record("overwritten")
}

// clone returns a record that shares nothing with r.
func clone(r *tier.Record) *tier.Record {
	if r == nil {
		return nil
	}
	return &tier.Record{Value: bytes.Clone(r.Value), Expires: r.Expires, Token: bytes.Clone(r.Token)}
}

// backupShared overwrites whatever was given to the Backup, and whatever it
// handed on, as soon as the call has ended.
func backupShared(b *backup) {
	id := newID()
	want := record("value")
	// is fails unless want is there, and its token counts.
	is := func(id, when string) {
		b.Helper()
		b.wants(id, &want, "after "+when+" was overwritten")
		next := clone(&want)
		if err := b.update([]string{id}, &tier.Guess{Token: bytes.Clone(b.there(id).Token), Next: next}, b.failing); err != nil {
			b.Errorf("after %s was overwritten, an update with the right guess: %v", when, err)
		}
	}

	r := clone(&want)
	b.put(id, *r)
	overwrite(r)
	is(id, "what was put")

	r = clone(&want)
	inserted := newID()
	if err := b.Insert(b.ctx, inserted, *r); err != nil {
		b.Fatal(err)
	}
	overwrite(r)
	is(inserted, "what was inserted")

	first, second := b.there(id), b.there(id)
	overwrite(first)
	if !sameRecord(second, &want) {
		b.Errorf("two reads share what they return: one changed the other's to %s", describeRecord(second))
	}
	is(id, "what was got")

	token := b.there(id).Token
	overwrite(second)
	b.must([]string{id}, &tier.Guess{Token: bytes.Clone(token), Next: clone(&want)}, b.failing)

	var given []*tier.Record
	other := newID()
	ids, want2 := []string{id, other}, record("value of the other")
	next := []*tier.Record{clone(&want), clone(&want2)}
	b.must(ids, nil, func(current []*tier.Record) ([]*tier.Record, error) {
		given = current
		return next, nil
	})
	tokens := [][]byte{bytes.Clone(next[0].Token), bytes.Clone(next[1].Token)}
	overwrite(next[0])
	overwrite(next[1])
	next[0], next[1] = next[1], next[0]
	ids[0], ids[1] = ids[1], ids[0]
	b.wants(id, &want, "after what an update wrote was overwritten")
	b.wants(other, &want2, "after what an update wrote was overwritten")
	b.must([]string{id}, &tier.Guess{Token: tokens[0], Next: clone(&want)}, b.failing)
	b.must([]string{other}, &tier.Guess{Token: tokens[1], Next: clone(&want2)}, b.failing)
	overwrite(given[0])
	is(id, "what an update was given")

	given = nil
	b.must([]string{id, other}, nil, func(current []*tier.Record) ([]*tier.Record, error) {
		given = current
		return []*tier.Record{nil, nil}, nil
	})
	overwrite(given[0])
	overwrite(given[1])
	is(id, "what an update was given that wrote nothing")
	b.wants(other, &want2, "after what an update was given that wrote nothing was overwritten")

	guess := &tier.Guess{Token: b.there(id).Token, Next: clone(&want)}
	was := bytes.Clone(guess.Token)
	b.must([]string{id}, guess, b.failing)
	if !bytes.Equal(guess.Token, was) {
		b.Error("an update has changed the token of its guess")
	}
	if !sameRecord(guess.Next, &want) {
		b.Errorf("an update has changed what its guess wrote to %s", describeRecord(guess.Next))
	}
	overwrite(guess.Next)
	overwrite(&tier.Record{Token: guess.Token})
	is(id, "a guess")
}

func (b *backup) wantsToken(id string, token []byte, when string) {
	b.Helper()
	if len(token) == 0 || len(token) > 64 {
		b.Errorf("%s: a token of %d bytes, want 1 to 64", when, len(token))
	}
	if there := b.there(id).Token; !bytes.Equal(token, there) {
		b.Errorf("%s: the token is %x, and a read returns %x", when, token, there)
	}
}

func backupTokens(b *backup) {
	id, put := b.with(record("a"))
	b.wantsToken(id, put.Token, "after a put")
	empty, emptied := b.with(record(""))
	b.wantsToken(empty, emptied.Token, "after a put of an emptied record")
	insertedID := newID()
	if err := b.Insert(b.ctx, insertedID, record("a")); err != nil {
		b.Fatal(err)
	}
	b.wantsToken(insertedID, b.there(insertedID).Token, "after an insert")

	// An update sets the token, whatever is there.
	updated := record("b")
	updated.Token = bytes.Clone(put.Token)
	b.must([]string{id}, nil, replacing(&updated))
	b.wantsToken(id, updated.Token, "set by an update")
	guessed := record("c")
	guessed.Token = []byte("left there")
	b.must([]string{id}, &tier.Guess{Token: updated.Token, Next: &guessed}, b.failing)
	b.wantsToken(id, guessed.Token, "set by a guess")
	one, two, other := record("d"), record("e"), newID()
	two.Token = []byte("left there")
	b.must([]string{id, empty, other}, nil, replacing(&one, nil, &two))
	b.wantsToken(id, one.Token, "set by an update of several")
	b.wantsToken(other, two.Token, "set by an update of several")
	b.wantsToken(empty, emptied.Token, "left by an update of several")

	// Other records have other tokens.
	sooner := record("d")
	sooner.Expires = sooner.Expires.Add(-time.Microsecond)
	last := record("d")
	last.Value = nil
	tokens := [][]byte{put.Token, updated.Token, guessed.Token, one.Token}
	for _, r := range []tier.Record{sooner, last} {
		b.put(id, r)
		tokens = append(tokens, b.there(id).Token)
	}
	for i, token := range tokens {
		if j := slices.IndexFunc(tokens, func(t []byte) bool { return bytes.Equal(t, token) }); j != i {
			b.Errorf("record %d has the same token as record %d, which was another: %x", i+1, j+1, token)
		}
	}

	if c, ok := b.Backup.(tier.ContentTokens); ok {
		b.contentTokens(c)
	}

	b.put(id, tier.Record{Value: []byte("f"), Expires: inAnHour(), Token: put.Token})
	if bytes.Equal(b.there(id).Token, put.Token) {
		b.Error("put wrote the token that it was given")
	}
}

// contentTokens shows that a token is known before the record is written.
func (b *backup) contentTokens(c tier.ContentTokens) {
	b.Helper()
	for name, r := range map[string]tier.Record{
		"a value":                {Value: []byte("value"), Expires: inAnHour()},
		"an emptied record":      {Expires: inAnHour()},
		"not quite microseconds": {Value: []byte("value"), Expires: inAnHour().Add(999 * time.Nanosecond)},
		"another zone":           {Value: []byte("value"), Expires: inAnHour().In(time.FixedZone("Z", 3600))},
		"with a token":           {Value: []byte("value"), Expires: inAnHour(), Token: []byte("left there")},
	} {
		was := clone(&r)
		token := c.TokenOf(r)
		if !sameRecord(&r, was) || !bytes.Equal(r.Token, was.Token) {
			b.Errorf("%s: TokenOf has changed the record", name)
		}
		id := newID()
		b.put(id, r)
		b.wantsToken(id, token, "of "+name+", put")
		inserted := newID()
		if err := b.Insert(b.ctx, inserted, r); err != nil {
			b.Error(err)
		}
		b.wantsToken(inserted, token, "of "+name+", inserted")
		updated := newID()
		b.must([]string{updated}, nil, replacing(clone(&r)))
		b.wantsToken(updated, token, "of "+name+", written by an update")
		b.must([]string{id}, &tier.Guess{Token: token, Next: clone(&r)}, b.failing)
		b.wantsToken(id, token, "of "+name+", written by a guess")
	}
}

// backupUpdate shows that f gets what is there, in the order of the ids, and
// that what it returns replaces that, in the same order.
func backupUpdate(b *backup) {
	a, recordA := b.with(record("a"))
	c, recordC := b.with(record("c"))
	e, emptied := b.with(record(""))
	for name, test := range map[string]struct {
		ids  []string
		want []*tier.Record
	}{
		"one":                           {[]string{a}, []*tier.Record{recordA}},
		"one that is missing":           {[]string{newID()}, []*tier.Record{nil}},
		"one that was emptied":          {[]string{e}, []*tier.Record{emptied}},
		"two":                           {[]string{a, c}, []*tier.Record{recordA, recordC}},
		"two, in the other order":       {[]string{c, a}, []*tier.Record{recordC, recordA}},
		"two, the first is missing":     {[]string{newID(), a}, []*tier.Record{nil, recordA}},
		"two, the second is missing":    {[]string{a, newID()}, []*tier.Record{recordA, nil}},
		"two that are missing":          {[]string{newID(), newID()}, []*tier.Record{nil, nil}},
		"four, one of them is missing":  {[]string{c, newID(), e, a}, []*tier.Record{recordC, nil, emptied, recordA}},
		"three, one of them is emptied": {[]string{a, e, c}, []*tier.Record{recordA, emptied, recordC}},
	} {
		b.sub(name, func(b *backup) {
			var next []*tier.Record
			b.must(test.ids, nil, func(current []*tier.Record) ([]*tier.Record, error) {
				if len(current) != len(test.ids) {
					b.Fatalf("f got %d records for %d ids", len(current), len(test.ids))
				}
				next = nil
				for i, r := range current {
					want := test.want[i]
					if !sameRecord(r, want) {
						b.Errorf("record %d: f got %s, want %s", i+1, describeRecord(r), describeRecord(want))
					} else if r != nil && !bytes.Equal(r.Token, want.Token) {
						b.Errorf("record %d: f got the token %x, want %x", i+1, r.Token, want.Token)
					}
					n := record(fmt.Sprint("next ", i))
					next = append(next, &n)
				}
				return next, nil
			})
			b.wantsAll(test.ids, next, "after the update")
			// All is as it was, for the next case.
			restore := func(ids []string, records []*tier.Record) {
				for i, id := range ids {
					if records[i] != nil {
						b.put(id, *records[i])
						records[i].Token = b.there(id).Token
					}
				}
			}
			restore(test.ids, test.want)
		})
	}
}

func backupLeaves(b *backup) {
	id, there := b.with(record("there"))
	other, otherRecord := b.with(record("other"))
	missing := newID()
	ids := []string{id, missing, other}
	next := record("next")
	b.must(ids, nil, replacing(nil, nil, &next))
	b.wantsAll(ids, []*tier.Record{there, nil, &next}, "only the last one was replaced")
	b.wantsToken(id, there.Token, "of a record that was left")

	b.must(ids, nil, replacing(otherRecord, nil, nil))
	b.wantsAll(ids, []*tier.Record{otherRecord, nil, &next}, "only the first one was replaced")

	first := record("the first")
	b.must(ids, nil, replacing(nil, &first, nil))
	b.wantsAll(ids, []*tier.Record{otherRecord, &first, &next}, "only the missing one was replaced")
}

func backupWritesNothing(b *backup) {
	failed := errors.New("f has failed")
	contended := fmt.Errorf("f says %w", tier.ErrContention)
	for _, want := range []error{nil, failed, contended} {
		for _, there := range []bool{false, true} {
			for _, kind := range []string{"one", "one, with a guess", "two"} {
				if !b.sub(fmt.Sprintf("error %v, there %t, %s", want, there, kind), func(b *backup) {
					ids, records := []string{newID()}, []*tier.Record{nil}
					if kind == "two" {
						ids, records = append(ids, newID()), append(records, nil)
					}
					if there {
						b.put(ids[0], record("there"))
						records[0] = b.there(ids[0])
					}
					var guess *tier.Guess
					if kind == "one, with a guess" {
						next := record("guessed")
						guess = &tier.Guess{Token: []byte("wrong"), Next: &next}
					}
					err := b.Update(b.ctx, ids, guess, func(current []*tier.Record) ([]*tier.Record, error) {
						next := make([]*tier.Record, len(current))
						if want != nil {
							for i := range next {
								r := record("must not be written")
								next[i] = &r
							}
						}
						return next, want
					})
					if err != want {
						b.Errorf("got %v, want %v as it is", err, want)
					}
					b.wantsAll(ids, records, "after an update that is to write nothing")
					if there {
						b.wantsToken(ids[0], records[0].Token, "after an update that is to write nothing")
					}
					// And it holds nobody up.
					next := record("next")
					for _, id := range ids {
						b.soon("the next write", func() error { return b.Put(b.ctx, id, next) })
						b.wants(id, &next, "after the next write")
					}
				}) {
					return // the others would take as long to fail
				}
			}
		}
	}
}

func backupRightGuess(b *backup) {
	guessed := func(id string, token []byte, value string) *tier.Record {
		b.Helper()
		next := record(value)
		if err := b.update([]string{id}, &tier.Guess{Token: token, Next: &next}, b.failing); err != nil {
			b.Fatalf("%s: %v", value, err)
		}
		b.wants(id, &next, value)
		return &next
	}
	id, put := b.with(record("put"))
	// Tokens are compared as bytes: these have another address.
	next := guessed(id, bytes.Clone(put.Token), "the token of what was put")
	next = guessed(id, bytes.Clone(next.Token), "the token that a guess has set")
	next = guessed(id, next.Token, "the same slice")
	next.Value = []byte("updated")
	b.must([]string{id}, nil, replacing(next))
	next = guessed(id, bytes.Clone(next.Token), "the token that an update has set")
	next.Value = nil
	b.must([]string{id}, nil, replacing(next))
	guessed(id, bytes.Clone(next.Token), "the token of an emptied record")

	first := record("first")
	inserted := newID()
	if err := b.Insert(b.ctx, inserted, first); err != nil {
		b.Fatal(err)
	}
	guessed(inserted, b.there(inserted).Token, "the token of what was inserted")

	other := newID()
	one, two := record("one"), record("two")
	b.must([]string{id, other}, nil, replacing(&one, &two))
	guessed(id, bytes.Clone(one.Token), "the first token that an update of two has set")
	guessed(other, bytes.Clone(two.Token), "the second token that an update of two has set")

	guessed(newID(), nil, "nothing, and there is nothing")
	guessed(newID(), []byte{}, "nothing, and there is nothing, and the token is not nil")

	// A guess may replace a record by the same.
	id, there := b.with(record("same"))
	same := &tier.Record{Value: bytes.Clone(there.Value), Expires: there.Expires}
	b.must([]string{id}, &tier.Guess{Token: there.Token, Next: same}, b.failing)
	b.wants(id, there, "replaced by the same")
	guessed(id, same.Token, "the token of the same")
}

func backupWrongGuess(b *backup) {
	_, other := b.with(record("other"))
	changed := func(token []byte, f func([]byte)) []byte {
		t := bytes.Clone(token)
		f(t)
		return t
	}
	refused := errors.New("f has refused")
	for name, token := range map[string]func(before, there *tier.Record) []byte{
		"nil":                func(before, there *tier.Record) []byte { return nil },
		"empty":              func(before, there *tier.Record) []byte { return []byte{} },
		"before":             func(before, there *tier.Record) []byte { return before.Token },
		"of another record":  func(before, there *tier.Record) []byte { return other.Token },
		"of nobody":          func(before, there *tier.Record) []byte { return []byte("nobody's") },
		"with one more byte": func(before, there *tier.Record) []byte { return append(bytes.Clone(there.Token), 0) },
		"with one byte less": func(before, there *tier.Record) []byte {
			if len(there.Token) == 1 {
				return []byte{there.Token[0] ^ 1}
			}
			return there.Token[:len(there.Token)-1]
		},
		"other at the start": func(before, there *tier.Record) []byte {
			return changed(there.Token, func(t []byte) { t[0] ^= 1 })
		},
		"other at the end": func(before, there *tier.Record) []byte {
			return changed(there.Token, func(t []byte) { t[len(t)-1] ^= 0x80 })
		},
	} {
		for _, what := range []string{"value", "emptied", "missing"} {
			if what == "missing" && (name == "nil" || name == "empty") {
				continue // the guess is right
			}
			b.sub(what+", token "+name, func(b *backup) {
				id, before := b.with(record("a"))
				b.put(id, record(map[string]string{"value": "ab"}[what]))
				there := b.there(id)
				token := token(before, there)
				if what == "missing" {
					id, there = newID(), nil
				}
				guessed := record("guessed")
				guess := &tier.Guess{Token: token, Next: &guessed}
				// see returns f for an update that has to call it.
				calls := 0
				see := func(next *tier.Record, err error) updateFunc {
					return func(current []*tier.Record) ([]*tier.Record, error) {
						calls++
						if len(current) != 1 || !sameRecord(current[0], there) {
							b.Fatalf("f got %d records, the first %s, want %s", len(current), describeRecord(current[0]), describeRecord(there))
						}
						return []*tier.Record{next}, err
					}
				}
				b.must([]string{id}, guess, see(nil, nil))
				b.wants(id, there, "after a wrong guess, and f left the record")
				if err := b.update([]string{id}, guess, see(nil, refused)); err != refused {
					b.Errorf("got %v, want the error of f as it is", err)
				}
				b.wants(id, there, "after a wrong guess, and f refused")
				next := record("next")
				b.must([]string{id}, guess, see(&next, nil))
				b.wants(id, &next, "after a wrong guess, and f replaced the record")
				b.wantsToken(id, next.Token, "set after a wrong guess")
				if calls < 3 {
					b.Errorf("f was called %d times by three updates with wrong guesses", calls)
				}
			})
		}
	}
}

// backupForeignTokens shows that tokens of all lengths which another Backup may
// have drawn are none of this one's.
func backupForeignTokens(b *backup) {
	id, there := b.with(record("there"))
	missing := newID()
	for size := 1; size <= 64; size++ {
		random := make([]byte, size)
		_, _ = crand.Read(random) // never fails
		if bytes.Equal(random, there.Token) {
			continue // one byte may be
		}
		for name, token := range map[string][]byte{"random": random, "zero": make([]byte, size)} {
			guessed := record("guessed")
			guess := &tier.Guess{Token: token, Next: &guessed}
			id, there := id, there
			if name == "zero" {
				id, there = missing, nil
			}
			called := false
			b.must([]string{id}, guess, each(func(*tier.Record) *tier.Record {
				called = true
				return nil
			}))
			if !called {
				b.Errorf("%d bytes, %s: taken for a token of what is there", size, name)
			}
			b.wants(id, there, fmt.Sprintf("after a guess with %d bytes, %s", size, name))
		}
	}
}

// backupCameBack has a record changed, and changed back, since its token was
// read: it may be the same version or another.
func backupCameBack(b *backup) {
	id, there := b.with(record("there"))
	b.put(id, record("meanwhile"))
	b.put(id, *there)
	guessed, made := record("guessed"), record("made")
	want := &guessed
	b.must([]string{id}, &tier.Guess{Token: there.Token, Next: &guessed}, each(func(current *tier.Record) *tier.Record {
		if !sameRecord(current, there) {
			b.Errorf("f got %s, want %s", describeRecord(current), describeRecord(there))
		}
		want = &made
		return want
	}))
	b.wants(id, want, "after a guess of what has come back")
	b.wantsToken(id, want.Token, "after a guess of what has come back")

	id, there = b.with(record("there"))
	var rival rival
	err := b.Update(b.ctx, []string{id}, nil, each(func(*tier.Record) *tier.Record {
		rival.once(func() {
			b.put(id, record("meanwhile"))
			b.put(id, *there)
		})
		return &made
	}))
	rival.wait()
	if err != nil && !errors.Is(err, tier.ErrContention) {
		b.Fatal(err)
	}
	if got := b.get(id); !sameRecord(got, there) && (err != nil || !sameRecord(got, &made)) {
		b.Errorf("update of what has come back answered %v, and there is %s", err, describeRecord(got))
	}
}

// A rival makes calls while an update is held.
type rival struct {
	all  sync.WaitGroup
	made bool
}

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

// once is run, the first time.
func (r *rival) once(call func()) {
	if !r.made {
		r.made = true
		r.run(call)
	}
}

func (r *rival) wait() { r.all.Wait() }

// backupOverlap holds an update inside its function while another one begins.
func backupOverlap(b *backup) {
	for _, kind := range []string{"of nothing", "of a record", "of two records", "of two records, in the other order", "of two records and one of them"} {
		b.sub(kind, func(b *backup) {
			ids := [2][]string{{newID()}, nil}
			if strings.HasPrefix(kind, "of two") {
				ids[0] = append(ids[0], newID())
			}
			ids[1] = slices.Clone(ids[0])
			switch kind {
			case "of two records, in the other order":
				slices.Reverse(ids[1])
			case "of two records and one of them":
				ids[1] = ids[1][1:]
			}
			if kind != "of nothing" {
				for _, id := range ids[0] {
					b.put(id, record(""))
				}
			}
			var (
				rival rival
				errs  [2]error
			)
			errs[0] = b.Update(b.ctx, ids[0], nil, func(current []*tier.Record) ([]*tier.Record, error) {
				rival.once(func() { errs[1] = b.Update(b.ctx, ids[1], nil, appending("2")) })
				return appending("1")(current)
			})
			rival.wait()
			for i, err := range errs {
				if err != nil && !errors.Is(err, tier.ErrContention) {
					b.Errorf("update %d: %v", i+1, err)
				}
			}
			if errs[0] != nil && errs[1] != nil {
				b.Error("both updates gave up")
			}
			for n, id := range ids[0] {
				var got string
				if r := b.get(id); r != nil {
					got = string(r.Value)
				}
				for i, err := range errs {
					want := 1
					if err != nil || !slices.Contains(ids[i], id) {
						want = 0
					}
					if strings.Count(got, strconv.Itoa(i+1)) != want {
						b.Errorf("record %d: update %d answered %v, and there is %q", n+1, i+1, err, got)
					}
				}
			}
		})
	}
}

// backupWriteDuringUpdate has a rival write while an update is held. Whichever
// comes last has seen the other, or is a put.
func backupWriteDuringUpdate(b *backup) {
	for name, test := range map[string]struct {
		there, guess, insert bool
		value                string
	}{
		"put":                         {there: true, value: "rival's"},
		"put, after a wrong guess":    {there: true, guess: true, value: "rival's"},
		"put of the first record":     {value: "rival's"},
		"insert":                      {insert: true, value: "rival's"},
		"insert, after a wrong guess": {insert: true, guess: true, value: "rival's"},
		"same value, other end":       {there: true, value: "old"},
		"emptied":                     {there: true},
		"emptied, after a guess":      {there: true, guess: true},
	} {
		b.sub(name, func(b *backup) {
			id := newID()
			if test.there {
				b.put(id, record("old"))
			}
			var guess *tier.Guess
			if test.guess {
				next := record("guessed")
				guess = &tier.Guess{Token: []byte("wrong"), Next: &next}
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
				calls     int
			)
			err := b.Update(b.ctx, []string{id}, guess, each(func(current *tier.Record) *tier.Record {
				rival.once(func() { rivalsErr = write(b.ctx, id, written) })
				calls++
				r := record(fmt.Sprint("updated ", calls))
				saw, made = current, &r
				return made
			}))
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

// backupConflict has a rival write to one of two records that an update is to
// replace. What f returned before is then written to neither, whatever it returns
// next.
func backupConflict(b *backup) {
	refused := errors.New("f has refused")
	for touched, which := range []string{"the first", "the second"} {
		for _, there := range []bool{true, false} {
			for _, next := range []string{"replaces both", "replaces the other", "replaces the touched", "leaves both", "refuses"} {
				b.sub(fmt.Sprintf("%s, there %t, then f %s", which, there, next), func(b *backup) {
					ids, was := []string{newID(), newID()}, make([]*tier.Record, 2)
					for i, id := range ids {
						if there || i != touched {
							r := record(fmt.Sprint("old ", i))
							was[i] = &r
							b.put(id, r)
						}
					}
					var (
						rival     rival
						rivalsErr error
						calls     int
						made      []*tier.Record
						written   = record("rival's")
					)
					err := b.Update(b.ctx, ids, nil, func(current []*tier.Record) ([]*tier.Record, error) {
						calls++
						rival.once(func() { rivalsErr = b.Put(b.ctx, ids[touched], written) })
						one, two := record(fmt.Sprint("made 0, call ", calls)), record(fmt.Sprint("made 1, call ", calls))
						made = []*tier.Record{&one, &two}
						if calls == 1 {
							return slices.Clone(made), nil
						}
						if !sameRecord(current[touched], &written) || !sameRecord(current[1-touched], was[1-touched]) {
							b.Errorf("f got %s and %s, want %s and %s", describeRecord(current[touched]), describeRecord(current[1-touched]),
								describeRecord(&written), describeRecord(was[1-touched]))
						}
						switch next {
						case "replaces the other":
							made[touched] = nil
						case "replaces the touched":
							made[1-touched] = nil
						case "leaves both":
							made[0], made[1] = nil, nil
						case "refuses":
							return slices.Clone(made), refused
						}
						return slices.Clone(made), nil
					})
					rival.wait()
					if rivalsErr != nil {
						b.Fatalf("the rival's write: %v", rivalsErr)
					}
					want := slices.Clone(was)
					want[touched] = &written
					switch {
					case err == nil && calls == 1: // the rival came after it
						want[1-touched] = made[1-touched]
					case err == nil:
						for i, r := range made {
							if r != nil {
								want[i] = r
							}
						}
					case errors.Is(err, tier.ErrContention):
					case err != refused || calls == 1 || next != "refuses":
						b.Errorf("got %v", err)
					}
					b.wantsAll(ids, want, fmt.Sprintf("after %d calls, answered with %v", calls, err))
				})
			}
		}
	}
}

// backupWriteToLeft has a rival write to a record that an update has read, and
// leaves.
func backupWriteToLeft(b *backup) {
	for left, which := range []string{"the first", "the second"} {
		for _, there := range []bool{true, false} {
			b.sub(fmt.Sprintf("%s, there %t", which, there), func(b *backup) {
				ids := []string{newID(), newID()}
				if there {
					b.put(ids[left], record("old"))
				}
				var (
					rival         rival
					rivalsErr     error
					written, made = record("rival's"), record("made")
				)
				next := []*tier.Record{&made, &made}
				next[left] = nil
				err := b.Update(b.ctx, ids, nil, func([]*tier.Record) ([]*tier.Record, error) {
					rival.once(func() { rivalsErr = b.Put(b.ctx, ids[left], written) })
					return next, nil
				})
				rival.wait()
				if rivalsErr != nil {
					b.Errorf("the rival's write: %v", rivalsErr)
				}
				b.wants(ids[left], &written, "the record that was left")
				if errors.Is(err, tier.ErrContention) {
					b.wants(ids[1-left], nil, "after contention")
				} else if err != nil {
					b.Error(err)
				} else {
					b.wants(ids[1-left], &made, "the record that was replaced")
				}
			})
		}
	}
}

// backupContention has a rival write in every round of an update.
func backupContention(b *backup) {
	for _, kind := range []string{"one record", "after a wrong guess", "two records"} {
		b.sub(kind, func(b *backup) {
			id, _ := b.with(record("0"))
			ids := []string{id}
			var guess *tier.Guess
			switch kind {
			case "after a wrong guess":
				next := record("guessed")
				guess = &tier.Guess{Next: &next}
			case "two records":
				ids = []string{newID(), id}
			}
			var (
				rival  rival
				rounds int
			)
			err := b.Update(b.ctx, ids, guess, each(func(current *tier.Record) *tier.Record {
				r := record("updated")
				if current == nil {
					return &r
				}
				rounds++
				written := record(fmt.Sprint("rival ", rounds))
				rival.run(func() {
					if err := b.Put(b.ctx, id, written); err != nil {
						b.Errorf("the rival's write: %v", err)
					}
				})
				return &r
			}))
			rival.wait()
			b.Logf("%d rounds, %v", rounds, err)
			if err != nil && !errors.Is(err, tier.ErrContention) {
				b.Errorf("got %v, want ErrContention or nil", err)
			}
			if got := b.there(id); !strings.HasPrefix(string(got.Value), "rival ") { // they wrote after the last call of f
				b.Errorf("got %s, want what a rival wrote", describeRecord(got))
			}
			if err != nil && kind == "two records" {
				b.wants(ids[0], nil, "the other record, after contention")
			}
		})
	}
}

// count returns the number that a record has, and a record with the next one.
func count(r *tier.Record) (n int, next *tier.Record, err error) {
	if r != nil {
		if n, err = strconv.Atoi(string(r.Value)); err != nil {
			return 0, nil, err
		}
	}
	after := record(strconv.Itoa(n + 1))
	return n, &after, nil
}

// inTurns calls f in many goroutines, each times in each of them. It tries again
// after contention, and fails on another error.
func (b *backup) inTurns(goroutines, each int, f func(goroutine int) error) {
	b.Helper()
	var (
		all    sync.WaitGroup
		gaveUp atomic.Int64
	)
	for g := range goroutines {
		all.Add(1)
		go func() {
			defer all.Done()
			for done, attempts := 0, 0; done < each; attempts++ {
				switch err := f(g); {
				case err == nil:
					done++
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
	b.Logf("%d updates, %d times contention", goroutines*each, gaveUp.Load())
}

// numbers collects what updates have counted.
type numbers struct {
	mu  sync.Mutex
	all []int
}

func (n *numbers) add(number int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all = append(n.all, number)
}

func (n *numbers) wantEachOnce(b *backup) {
	b.Helper()
	slices.Sort(n.all)
	for i, number := range n.all {
		if number != i+1 {
			b.Fatalf("the updates counted %v, want each number once", n.all)
		}
	}
}

// backupCounter counts in many goroutines, half of which guess.
func backupCounter(b *backup) {
	const goroutines, each = 16, 4
	id := newID()
	var counted numbers
	last := make([]*tier.Record, goroutines)
	b.inTurns(goroutines, each, func(g int) error {
		var guess *tier.Guess
		if g%2 == 0 {
			_, next, err := count(last[g])
			if err != nil {
				return err
			}
			guess = &tier.Guess{Next: next}
			if last[g] != nil {
				guess.Token = last[g].Token
			}
			last[g] = next
		}
		err := b.Update(b.ctx, []string{id}, guess, func(current []*tier.Record) ([]*tier.Record, error) {
			_, next, err := count(current[0])
			last[g] = next
			return []*tier.Record{next}, err
		})
		if err != nil {
			last[g] = nil
			return err
		}
		n, _, err := count(last[g])
		counted.add(n)
		return err
	})
	counted.wantEachOnce(b)
	if r := b.get(id); r == nil || string(r.Value) != strconv.Itoa(goroutines*each) {
		b.Errorf("got %s, want %d", describeRecord(r), goroutines*each)
	}
}

// backupCounters counts in two records at once, in either order.
func backupCounters(b *backup) {
	const goroutines, each = 8, 4
	ids := []string{newID(), newID()}
	var counted numbers
	b.inTurns(goroutines, each, func(g int) error {
		mine := slices.Clone(ids)
		if g%2 == 1 {
			slices.Reverse(mine)
		}
		var seen [2]int
		err := b.Update(b.ctx, mine, nil, func(current []*tier.Record) ([]*tier.Record, error) {
			next := make([]*tier.Record, 2)
			for i, r := range current {
				var err error
				if seen[i], next[i], err = count(r); err != nil {
					return nil, err
				}
			}
			return next, nil
		})
		if err != nil {
			return err
		}
		if seen[0] != seen[1] {
			return fmt.Errorf("f got %d and %d, and what it returned was written", seen[0], seen[1])
		}
		counted.add(seen[0] + 1)
		return nil
	})
	counted.wantEachOnce(b)
	for i, id := range ids {
		if r := b.get(id); r == nil || string(r.Value) != strconv.Itoa(goroutines*each) {
			b.Errorf("record %d: got %s, want %d", i+1, describeRecord(r), goroutines*each)
		}
	}
}

func backupEnded(b *backup) {
	cancelled, cancel := context.WithCancel(b.ctx)
	cancel()
	expired, cancel := context.WithDeadline(b.ctx, time.Now().Add(-time.Second))
	defer cancel()
	for when, ctx := range map[string]context.Context{"cancelled": cancelled, "past its deadline": expired} {
		id, there := b.with(record("there"))
		free := newID()
		other := record("other")
		guess := &tier.Guess{Token: there.Token, Next: &other}
		for name, call := range map[string]func() error{
			"get":                       func() error { _, err := b.Get(ctx, id); return err },
			"put":                       func() error { return b.Put(ctx, id, other) },
			"insert":                    func() error { return b.Insert(ctx, free, other) },
			"update":                    func() error { return b.Update(ctx, []string{id}, nil, replacing(&other)) },
			"update with a right guess": func() error { return b.Update(ctx, []string{id}, guess, replacing(&other)) },
			"update with a wrong guess": func() error { return b.Update(ctx, []string{free}, guess, replacing(&other)) },
			"update of two":             func() error { return b.Update(ctx, []string{free, id}, nil, replacing(&other, &other)) },
		} {
			b.soon(name, func() error {
				if call() == nil {
					return fmt.Errorf("no error, although the context was %s", when)
				}
				return nil
			})
		}
		b.wants(id, there, "after calls with a context "+when)
		b.wants(free, nil, "after calls with a context "+when)
	}
}

// backupCancelledDuring cancels the context inside an update's function: then
// the update may have been made or not, but it ends, and holds nobody up.
func backupCancelledDuring(b *backup) {
	for _, kind := range []string{"one record", "after a wrong guess", "two records"} {
		if !b.sub(kind, func(b *backup) {
			id, there := b.with(record("there"))
			made := record("made")
			ids, was, next := []string{id}, []*tier.Record{there}, []*tier.Record{&made}
			var guess *tier.Guess
			switch kind {
			case "after a wrong guess":
				guessed := record("guessed")
				guess = &tier.Guess{Next: &guessed}
			case "two records":
				other := record("made of nothing")
				ids, was, next = append(ids, newID()), append(was, nil), append(next, &other)
			}
			ctx, cancel := context.WithCancel(b.ctx)
			defer cancel()
			var err error
			b.soon("the update", func() error {
				err = b.Update(ctx, ids, guess, func([]*tier.Record) ([]*tier.Record, error) {
					cancel()
					return next, nil
				})
				return nil
			})
			want := next
			if err != nil && sameRecord(b.get(id), there) {
				want = was
			}
			if errors.Is(err, tier.ErrNotWritten) {
				want = was
			}
			b.wantsAll(ids, want, fmt.Sprintf("after an update that answered %v", err))
			write := record("next")
			for _, id := range ids {
				b.soon("the next write", func() error { return b.Put(b.ctx, id, write) })
				b.wants(id, &write, "after the next write")
			}
		}) {
			return // the other would take as long to fail
		}
	}
}
