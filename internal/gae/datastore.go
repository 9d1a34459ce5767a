package gae

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"google.golang.org/appengine/v2"
	"google.golang.org/appengine/v2/datastore"

	"github.com/gaesession/gaesession/internal/retry"
	"github.com/gaesession/gaesession/tier"
)

const (
	// An entity may take 1 MiB less 4 bytes.
	// https://cloud.google.com/datastore/docs/concepts/limits
	maxEntity = 1<<20 - 4
	// Beside names and value an entity has a time, the application's id, a
	// namespace of up to 100 bytes, and what holds them together.
	entityOverhead = 220
	maxKeyName     = 1500
)

// Datastore is App Engine's Datastore as a backup. The namespace is that of the
// contexts.
type Datastore struct {
	Kind    string // of the entities
	Prefix  string // of the key names, before the session's id
	Value   string // property: the session's bytes
	Expires string // property: the end of the session, or of the removed one's record; indexed
}

// Get implements [tier.Backup].
func (d Datastore) Get(ctx context.Context, id string) (r *tier.Record, err error) {
	defer recoverNoAppID(&err)
	if err := takeDatastore(ctx, 1); err != nil {
		return nil, err
	}
	defer releaseDatastore(1)
	records, err := d.get(ctx, []*datastore.Key{d.key(ctx, id)})
	if err != nil {
		return nil, classify(err)
	}
	return records[0], nil
}

// get reads the records under keys; nil where there is none.
func (d Datastore) get(ctx context.Context, keys []*datastore.Key) ([]*tier.Record, error) {
	entities := make([]entity, len(keys))
	records := make([]*tier.Record, len(keys))
	for i := range entities {
		entities[i].Datastore = d
		records[i] = &entities[i].Record
	}
	err := datastore.GetMulti(ctx, keys, entities)
	if errs, ok := err.(appengine.MultiError); ok {
		err = nil
		for i, e := range errs {
			if errors.Is(e, datastore.ErrNoSuchEntity) {
				records[i] = nil
			} else {
				err = cmp.Or(err, e)
			}
		}
	}
	if err != nil {
		return nil, err
	}
	for _, r := range records {
		if r != nil {
			r.Token = token(r)
		}
	}
	return records, nil
}

// put writes those records that are not nil.
func (d Datastore) put(ctx context.Context, keys []*datastore.Key, records []*tier.Record) error {
	var (
		of       []*datastore.Key
		entities []entity
	)
	for i, r := range records {
		if r == nil {
			continue
		}
		if len(r.Value) > maxEntity {
			return tooLarge(len(r.Value))
		}
		of = append(of, keys[i])
		entities = append(entities, entity{d, *r})
	}
	_, err := datastore.PutMulti(ctx, of, entities)
	return err
}

// Put implements [tier.Backup].
func (d Datastore) Put(ctx context.Context, id string, r tier.Record) (err error) {
	defer recoverNoAppID(&err)
	if err := takeDatastore(ctx, 1); err != nil {
		return err
	}
	defer releaseDatastore(1)
	return classify(d.put(ctx, []*datastore.Key{d.key(ctx, id)}, []*tier.Record{&r}))
}

// Insert implements [tier.Backup]. It overwrites what is there: Datastore has no
// call of its own for it.
func (d Datastore) Insert(ctx context.Context, id string, r tier.Record) error {
	return d.Put(ctx, id, r)
}

var (
	// errUnchanged ends a transaction that has nothing to write.
	errUnchanged = errors.New("nothing to write")

	// errNoAnswer is the result of a put whose goroutine was ended in it.
	errNoAnswer = errors.New("datastore: put without an answer")
)

// Update implements [tier.Backup]. It makes one attempt at one transaction, which
// takes four calls. With a guess it takes no longer than three, because the guess
// is put while the record is read. A wrong guess does no harm: a read does not
// see the writes of its own transaction, and of several puts the last one counts.
func (d Datastore) Update(ctx context.Context, ids []string, guess *tier.Guess, f func([]*tier.Record) ([]*tier.Record, error)) (err error) {
	defer recoverNoAppID(&err)
	if guess != nil && (len(ids) != 1 || guess.Next == nil) {
		return notWritten(errors.New("datastore: a guess is of one record and what replaces it"))
	}
	if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > tier.UpdateTime {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, tier.UpdateTime)
		defer stop()
	}
	calls := int64(1)
	if guess != nil {
		calls = 2 // the put while the record is read
	}
	if err := takeDatastore(ctx, calls); err != nil {
		return notWritten(err)
	}
	defer releaseDatastore(calls)
	keys := make([]*datastore.Key, len(ids))
	for i, id := range ids {
		keys[i] = d.key(ctx, id)
	}
	var (
		ferr       error // of f
		next       []*tier.Record
		committing bool
	)
	err = datastore.RunInTransaction(ctx, func(ctx context.Context) error {
		var (
			early    sync.WaitGroup
			earlyErr error
		)
		if guess != nil {
			next = []*tier.Record{guess.Next}
			earlyErr = errNoAnswer // remains when the goroutine is ended
			early.Add(1)
			go func() {
				defer early.Done()
				defer recoverNoAppID(&earlyErr)
				growStack()
				earlyErr = d.put(ctx, keys, next)
			}()
			// The put uses the transaction, which must not end before it, not
			// even when the get panics.
			defer early.Wait()
		}
		current, err := d.get(ctx, keys)
		early.Wait()
		if err = cmp.Or(err, earlyErr); err != nil {
			return err
		}
		if guess == nil || !guessed(guess, current[0]) {
			if next, ferr = f(current); ferr != nil {
				return ferr
			}
			if len(next) != len(ids) {
				return fmt.Errorf("datastore: update of %d records with %d", len(ids), len(next))
			}
			if !slices.ContainsFunc(next, func(r *tier.Record) bool { return r != nil }) {
				return errUnchanged
			}
			if err := d.put(ctx, keys, next); err != nil {
				return err
			}
		}
		committing = true
		return nil
	}, &datastore.TransactionOptions{Attempts: 1, XG: len(ids) > 1})
	switch {
	case errors.Is(err, errUnchanged):
		return nil
	case ferr != nil:
		return ferr
	case errors.Is(err, datastore.ErrConcurrentTransaction):
		return tier.ErrContention
	case err != nil:
		err = classify(err)
		if !committing || errors.Is(err, tier.ErrUnreachable) {
			err = notWritten(err)
		}
		return err
	}
	for _, r := range next {
		if r != nil {
			r.Token = token(r)
		}
	}
	return nil
}

func notWritten(err error) error { return fmt.Errorf("%w: %w", tier.ErrNotWritten, err) }

// TokenOf implements [tier.ContentTokens].
func (d Datastore) TokenOf(r tier.Record) []byte { return token(&r) }

// token stands for the content of a record, as Datastore keeps it. The same
// content, written again, is no harm to an update: what it writes depends on
// nothing else.
func token(r *tier.Record) []byte {
	var expires [8]byte
	binary.BigEndian.PutUint64(expires[:], uint64(r.Expires.UnixMicro()))
	h := sha256.New()
	h.Write(expires[:])
	h.Write(r.Value)
	return h.Sum(nil)
}

// guessed reports whether a guess is right.
func guessed(g *tier.Guess, current *tier.Record) bool {
	if current == nil {
		return len(g.Token) == 0
	}
	return bytes.Equal(g.Token, current.Token)
}

// growStack makes the goroutine's stack large enough for a call of a service at
// its start, while there is next to nothing on it. Without it the stack is grown
// twice inside the call and copied frame by frame, a tenth of the CPU time of a
// change: go test ./internal/verify/bench -run '^$' -bench RequestCPU/change.
//
//go:noinline
func growStack() byte {
	var room [6 << 10]byte
	return room[len(room)-int(callDepth)]
}

var callDepth byte = 1 // not a constant, so that the compiler keeps the array

// MaxValue implements [tier.Backup].
func (d Datastore) MaxValue(id string) int {
	return maxEntity - entityOverhead - len(d.Kind) - len(d.name(id)) - len(d.Value) - len(d.Expires)
}

// ValidID reports whether Datastore can keep a record under that id: the name of
// its key is UTF-8 without NUL, has at most 1500 bytes, and is not the escaped
// name of another one.
func (d Datastore) ValidID(id string) bool {
	name := d.name(id)
	unescaped, ends := strings.CutSuffix(d.Prefix+id, escape)
	return id != "" && len(name) <= maxKeyName && utf8.ValidString(name) && !strings.Contains(name, "\x00") &&
		!(ends && reserved(unescaped))
}

// name returns the name of the key for an id. Names that Datastore reserves are
// escaped: a new session's id may be one, once in 16 million. All others are
// what they were in earlier versions.
func (d Datastore) name(id string) string {
	name := d.Prefix + id
	if reserved(name) {
		name += escape
	}
	return name
}

// escape is no letter of base64 or base32, so no id that is drawn ends with it.
const escape = "."

// reserved reports whether a name has the form __x__.
// https://cloud.google.com/datastore/docs/concepts/limits
func reserved(name string) bool {
	return len(name) >= 4 && strings.HasPrefix(name, "__") && strings.HasSuffix(name, "__")
}

func (d Datastore) key(ctx context.Context, id string) *datastore.Key {
	return datastore.NewKey(ctx, d.Kind, d.name(id), 0, nil)
}

// recoverNoAppID makes a panic of the appengine package an error: where the
// environment does not tell the application's id it asks a metadata server in
// every call, and panics when it gets no answer. Other panics go on.
func recoverNoAppID(err *error) {
	p := recover()
	if p == nil {
		return
	}
	if text, ok := p.(string); !ok || !strings.HasPrefix(text, "Metadata fetch failed") {
		panic(p)
	}
	*err = retry.Permanent(fmt.Errorf("%w: datastore: no application id; away from App Engine set Backup and Cache, or run the app under gaelocal: %v", tier.ErrRejected, p))
}

// entity is a record on its way from or to the Datastore.
type entity struct {
	Datastore
	tier.Record
}

func (e *entity) Load(ps []datastore.Property) error {
	var ok1, ok2 bool
	for _, p := range ps {
		switch p.Name {
		case e.Datastore.Value:
			e.Record.Value, ok1 = bytesOf(p.Value)
		case e.Datastore.Expires:
			e.Record.Expires, ok2 = p.Value.(time.Time)
		}
	}
	if !ok1 || !ok2 {
		return retry.Permanent(fmt.Errorf("%w: datastore: an entity of kind %s lacks property %s or %s, or has it with another type", tier.ErrRejected, e.Kind, e.Datastore.Value, e.Datastore.Expires))
	}
	return nil
}

func bytesOf(v any) ([]byte, bool) {
	switch v := v.(type) {
	case []byte:
		return v, true
	case datastore.ByteString: // as short values were saved where they were indexed
		return v, true
	}
	return nil, false
}

func (e *entity) Save() ([]datastore.Property, error) {
	return []datastore.Property{
		{Name: e.Datastore.Expires, Value: e.Record.Expires},
		{Name: e.Datastore.Value, Value: e.Record.Value, NoIndex: true},
	}, nil
}
