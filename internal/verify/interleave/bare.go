//go:build go1.25

package interleave

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/gaesession/gaesession/internal/gae"
	"github.com/gaesession/gaesession/internal/tiered"
	"github.com/gaesession/gaesession/tier"
)

// bareStore is the protocol without a store: a session is a map. It can do what
// no store does, move a session that others change asynchronously.
type bareStore struct{}

func (bareStore) kept() Kept { return Kept{Kind: "bare", Value: "value", Expires: "expires"} }

func (bareStore) purge(context.Context) error { return errors.New("not to be reached") }

func (bareStore) decode(value []byte) (s stored, err error) {
	err = json.Unmarshal(value, &s.attrs)
	return s, err
}

func (b bareStore) visit(ctx context.Context, t tiers, sc scenario, o op, returned, _ func(error)) visit {
	k := b.kept()
	v := &bareVisit{ctx: ctx, sc: sc, op: o, returned: returned, Store: &tiered.Store{Form: bareForm{}, Options: tiered.Options{
		Cache:         t.cache,
		Backup:        t.backup,
		Retries:       sc.retries,
		CacheTimeout:  callTimeout,
		BackupTimeout: callTimeout,
		MaxPerOwner:   sc.most,
		Report:        func(_ string, err error) { returned(err) },
		Shared:        func(context.Context, tier.Cache, tier.Backup) any { return b },
	}}}
	if t.cache == nil {
		v.Cache, v.Backup = gae.Memcache{}, gae.Datastore{Kind: k.Kind, Value: k.Value, Expires: k.Expires}
	}
	return v
}

// bareForm is that of a map in JSON.
type bareForm struct{}

func (bareForm) Inspect(value []byte) (tiered.Info, error) {
	s, err := bareStore{}.decode(value)
	return tiered.Info{Names: slices.Collect(maps.Keys(s.attrs))}, err
}

func (bareForm) Merge(into, from []byte, take func(name string) bool) ([]byte, error) {
	i, ierr := bareStore{}.decode(into)
	f, ferr := bareStore{}.decode(from)
	maps.DeleteFunc(i.attrs, func(name, _ string) bool { return take(name) })
	for name, value := range f.attrs {
		if take(name) {
			i.attrs[name] = value
		}
	}
	merged, err := json.Marshal(i.attrs)
	return merged, errors.Join(ierr, ferr, err)
}

func (bareForm) Rename(value []byte, _ string) ([]byte, error) { return value, nil }

// briefly is how long a session lives at first in the state brief: it is listed
// for twice that.
const briefly = timeout / 4

type bareVisit struct {
	*tiered.Store
	ctx      context.Context
	sc       scenario
	op       op
	returned func(error)

	id, newID string
	loaded    *tiered.Loaded // nil: it is not saved
	attrs     map[string]string
	set       []string
	deleted   []string
	none      bool
	move      *tiered.Move // nil: it keeps its id
}

func (v *bareVisit) create() string {
	v.id, v.attrs, v.set = gaesessionStore{}.newID(), maps.Clone(initial), slices.Collect(maps.Keys(initial))
	if v.sc.owned || v.op.enter {
		v.loaded = tiered.Unknown()
		v.move = v.NewMove("", v.id, v.loaded)
	}
	return v.id
}

func (v *bareVisit) load(id string) *view {
	l, err := v.Load(v.ctx, id)
	if err != nil {
		v.returned(err)
	}
	if v.none = l == nil; v.none {
		return &view{none: true}
	}
	s, err := bareStore{}.decode(l.Value())
	if err != nil {
		v.returned(err)
	}
	v.id, v.loaded, v.attrs = id, l, s.attrs
	return &view{attrs: maps.Clone(s.attrs)}
}

func (v *bareVisit) act(o op, value string) {
	v.op = o
	if o.regenerate && !v.none {
		v.move = v.NewMove(v.id, gaesessionStore{}.newID(), v.loaded)
	}
	if o.enter {
		v.create()
	}
	switch {
	case v.none || o.attr == "" || v.attrs[o.attr] == value:
	case o.delete:
		delete(v.attrs, o.attr)
		v.deleted = append(v.deleted, o.attr)
	default:
		v.attrs[o.attr] = value
		v.set = append(v.set, o.attr)
	}
}

func (v *bareVisit) change() *tiered.Change {
	value, err := json.Marshal(v.attrs)
	if err != nil {
		v.returned(err)
	}
	now := time.Now()
	c := &tiered.Change{Value: value, Set: v.set, Deleted: v.deleted, Used: now, Ends: now.Add(timeout + timeout/10)}
	if v.sc.start == brief && v.move != nil && v.id == v.move.To() {
		c.Ends = now.Add(briefly)
	}
	if owner := v.op.owner; owner != "" {
		c.Owner = &tiered.Ownership{Owner: ownerNamed(owner)}
	} else if v.sc.owned {
		c.Owner = &tiered.Ownership{Owner: ownerNamed(alice)}
	}
	return c
}

func (v *bareVisit) moved() string { return v.newID }

func (v *bareVisit) close() {
	var err error
	switch {
	case v.op.endall:
		err = v.End(v.ctx, ownerNamed(alice), func(tiered.Owned) bool { return true })
	case v.none:
	case v.op.logout:
		err = v.Remove(v.ctx, v.id, v.loaded)
	case v.move != nil:
		var moved *tiered.Moved
		if moved, err = v.move.Run(v.ctx, v.loaded, v.change()); moved != nil {
			v.newID = v.move.To()
		}
	case v.loaded == nil:
		_, err = v.Create(v.ctx, v.id, v.change())
	case len(v.set)+len(v.deleted) == 0:
		err = v.Settle(v.ctx, v.id, v.loaded)
	case v.op.async:
		_, err = v.UpdateAsync(v.ctx, v.id, v.loaded, v.change())
	default:
		_, err = v.Update(v.ctx, v.id, v.loaded, v.change())
	}
	if err != nil {
		v.returned(err)
	}
}
