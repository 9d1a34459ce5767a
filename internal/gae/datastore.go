package gae

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

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
// contexts. A transaction takes 270 s at most, [tier.UpdateTime].
// https://cloud.google.com/datastore/docs/concepts/cloud-datastore-transactions
type Datastore struct {
	Kind    string // of the entities
	Prefix  string // of the key names, before the session's id
	Value   string // property: the session's bytes
	Expires string // property: the end of the session, or of the removed one's record; indexed
}

func (d Datastore) Get(ctx context.Context, id string) (r *tier.Record, err error) {
	defer recoverNoAppID(&err)
	return d.get(ctx, d.key(ctx, id))
}

func (d Datastore) get(ctx context.Context, key *datastore.Key) (*tier.Record, error) {
	e := entity{Datastore: d}
	err := datastore.Get(ctx, key, &e)
	if errors.Is(err, datastore.ErrNoSuchEntity) {
		return nil, nil
	}
	if err != nil {
		return nil, classify(err)
	}
	return &e.Record, nil
}

func (d Datastore) Put(ctx context.Context, id string, r tier.Record) (err error) {
	defer recoverNoAppID(&err)
	_, err = datastore.Put(ctx, d.key(ctx, id), &entity{d, r})
	return classify(err)
}

// Insert overwrites what is there: Datastore has no call of its own for it.
func (d Datastore) Insert(ctx context.Context, id string, r tier.Record) error {
	return d.Put(ctx, id, r)
}

var (
	// errUnchanged ends a transaction that has nothing to write.
	errUnchanged = errors.New("nothing to write")

	// errNoAnswer is what a put has come to whose goroutine was ended in it.
	errNoAnswer = errors.New("datastore: put without an answer")
)

// Update is one transaction, and one attempt at it. What f makes of known is
// put while the record is read: a read does not see the writes of its own
// transaction, and of several puts the last one counts.
func (d Datastore) Update(ctx context.Context, id string, known *tier.Record, f func(*tier.Record) (*tier.Record, error)) (err error) {
	defer recoverNoAppID(&err)
	key := d.key(ctx, id)
	var ferr error // of f
	committing := false
	err = datastore.RunInTransaction(ctx, func(ctx context.Context) error {
		put := func(r *tier.Record) (err error) {
			defer recoverNoAppID(&err)
			_, err = datastore.Put(ctx, key, &entity{d, *r})
			return err
		}
		var early *tier.Record
		if known != nil {
			var err error
			if early, err = f(known); err != nil {
				early, known = nil, nil // what is there decides
			}
		}
		done := make(chan error, 1)
		if early != nil {
			go func() {
				err := errNoAnswer
				defer func() { done <- err }() // also when the goroutine is ended
				growStack()
				err = put(early)
			}()
		} else {
			done <- nil
		}
		current, err := d.get(ctx, key)
		if perr := <-done; err == nil {
			err = perr
		}
		if err != nil {
			return err
		}
		if known == nil || current == nil || !bytes.Equal(current.Value, known.Value) || !current.Expires.Equal(known.Expires) {
			if early, ferr = f(current); ferr != nil {
				return ferr
			}
			if early != nil {
				if err := put(early); err != nil {
					return err
				}
			}
		}
		if early == nil {
			return errUnchanged
		}
		committing = true
		return nil
	}, &datastore.TransactionOptions{Attempts: 1})
	switch {
	case errors.Is(err, errUnchanged):
		return nil
	case ferr != nil:
		return ferr
	case errors.Is(err, datastore.ErrConcurrentTransaction):
		return tier.ErrContention
	case err != nil && !committing:
		return fmt.Errorf("%w: %w", tier.ErrNotWritten, classify(err))
	}
	return classify(err)
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

// Fits reports whether Datastore takes a value of that many bytes.
func (d Datastore) Fits(id string, size int) bool {
	names := len(d.Kind) + len(d.Prefix) + len(id) + len(d.Value) + len(d.Expires)
	return size <= maxEntity-entityOverhead-names
}

// ValidID reports whether an entity may have that name: UTF-8, at most 1500
// bytes, and not of the form __x__.
// https://cloud.google.com/datastore/docs/concepts/limits
func (d Datastore) ValidID(id string) bool {
	name := d.Prefix + id
	return id != "" && len(name) <= maxKeyName && utf8.ValidString(name) && !strings.Contains(name, "\x00") &&
		!(strings.HasPrefix(name, "__") && strings.HasSuffix(name, "__"))
}

func (d Datastore) key(ctx context.Context, id string) *datastore.Key {
	return datastore.NewKey(ctx, d.Kind, d.Prefix+id, 0, nil)
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
	*err = retry.Permanent(fmt.Errorf("datastore: no application id: %v", p))
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
		return retry.Permanent(fmt.Errorf("datastore: entity of kind %s lacks property %s or %s, or has it with another type", e.Kind, e.Datastore.Value, e.Datastore.Expires))
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
