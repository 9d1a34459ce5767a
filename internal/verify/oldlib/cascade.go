package oldlib

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"time"

	"google.golang.org/appengine/v2/datastore"
	"google.golang.org/appengine/v2/memcache"
)

// A Cascade is the part of goappenginesessioncascade's store that loads and
// saves, with the gob serializer. The zero value keeps sessions in both services,
// for the 30 days of DefaultExpireSeconds.
type Cascade struct {
	OnlyMemcache bool
	MaxAge       time.Duration // whole seconds
}

// CascadeEntity is a session in Datastore.
type CascadeEntity struct {
	Value     []byte
	ExpiresAt time.Time
}

// Load returns the Values of the session, or nil when there is none. With an
// error, too, the app gets an empty session under that id, and is not told.
func (c Cascade) Load(ctx context.Context, id string) (map[any]any, error) {
	value, err := c.get(ctx, id)
	if err != nil || value == nil {
		return nil, err
	}
	values := map[any]any{}
	if err := gob.NewDecoder(bytes.NewReader(value)).Decode(&values); err != nil {
		return nil, fmt.Errorf("oldlib: decode the values: %w", err)
	}
	return values, nil
}

func (c Cascade) get(ctx context.Context, id string) ([]byte, error) {
	it, err := memcache.Get(ctx, cascadeKey(id))
	if err == nil && it.Value != nil {
		return it.Value, nil
	}
	if err != nil && !errors.Is(err, memcache.ErrCacheMiss) {
		return nil, fmt.Errorf("oldlib: get the item: %w", err)
	}
	if c.OnlyMemcache {
		return nil, nil
	}
	var e CascadeEntity
	err = datastore.Get(ctx, cascadeEntityKey(ctx, id), &e)
	if errors.Is(err, datastore.ErrNoSuchEntity) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("oldlib: get the entity: %w", err)
	}
	if !time.Now().Before(e.ExpiresAt) {
		return nil, c.Remove(ctx, id)
	}
	return e.Value, nil
}

// Save saves the Values.
func (c Cascade) Save(ctx context.Context, id string, values map[any]any) error {
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(values); err != nil {
		return fmt.Errorf("oldlib: encode the values: %w", err)
	}
	maxAge := c.MaxAge
	if maxAge == 0 {
		maxAge = 30 * 24 * time.Hour
	}
	it := &memcache.Item{Key: cascadeKey(id), Value: b.Bytes(), Expiration: maxAge}
	if err := memcache.Set(ctx, it); err != nil {
		return fmt.Errorf("oldlib: set the item: %w", err)
	}
	if c.OnlyMemcache {
		return nil
	}
	e := &CascadeEntity{Value: b.Bytes(), ExpiresAt: time.Now().Add(maxAge)}
	if _, err := datastore.Put(ctx, cascadeEntityKey(ctx, id), e); err != nil {
		return fmt.Errorf("oldlib: put the entity: %w", err)
	}
	return nil
}

// Remove removes the session.
func (c Cascade) Remove(ctx context.Context, id string) error {
	err := memcache.Delete(ctx, cascadeKey(id))
	if err != nil && !errors.Is(err, memcache.ErrCacheMiss) {
		return fmt.Errorf("oldlib: delete the item: %w", err)
	}
	if c.OnlyMemcache {
		return nil
	}
	// A failure is logged there, and the removal counts as made.
	_ = datastore.Delete(ctx, cascadeEntityKey(ctx, id))
	return nil
}

func cascadeKey(id string) string { return "session." + id }

func cascadeEntityKey(ctx context.Context, id string) *datastore.Key {
	return datastore.NewKey(ctx, "Session", cascadeKey(id), 0, nil)
}
