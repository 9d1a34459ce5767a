//go:build go1.25

package interleave

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/icza/session"
	"google.golang.org/appengine/v2/memcache"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/verify/oldlib"
)

// codec is quicker than gob, and a session has one encoding. As gob does it
// ignores what follows, so that the old library can read what ours wrote.
var codec = memcache.Codec{Marshal: json.Marshal, Unmarshal: func(b []byte, v any) error {
	return json.Unmarshal(untrailed(b), v)
}}

// untrailed is the object in JSON that b begins with.
func untrailed(b []byte) []byte {
	depth, inText := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case inText && c == '\\':
			i++
		case c == '"':
			inText = !inText
		case inText:
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			if depth--; depth == 0 {
				return b[:i+1]
			}
		}
	}
	return b
}

// gaesessionStore is the store of the root package.
type gaesessionStore struct{}

func (gaesessionStore) kept() Kept { return Kept{Kind: "sess_", Value: "val", Expires: "exp"} }

func (gaesessionStore) purge(ctx context.Context) error {
	_, err := gaesession.PurgeExpired(ctx, "sess_")
	return err
}

func (gaesessionStore) decode(value []byte) (stored, error) {
	var v struct {
		AccessedF time.Time
		AttrsF    map[string]string
	}
	err := codec.Unmarshal(value, &v)
	return stored{v.AccessedF, texts(v.AttrsF), v.AttrsF[ownerAttr]}, err
}

func (gaesessionStore) visit(ctx context.Context, t tiers, sc scenario, o op, returned, _ func(error)) visit {
	v := &gaesessionVisit{returned: returned, index: -1}
	if o.old {
		v.old = oldlib.New(ctx, oldlib.Options{Codec: &codec, Retries: sc.retries})
		v.store = v.old
		return v
	}
	opt := optionsOf(t, sc, o, func(_ context.Context, err error) { returned(err) })
	if v.again = o.again; v.again {
		opt.OnError = func(_ context.Context, err error) { v.errs = append(v.errs, err) }
	}
	v.store = gaesession.NewMemcacheStoreOptions(ctx, &opt)
	return v
}

func optionsOf(t tiers, sc scenario, o op, report func(context.Context, error)) gaesession.MemcacheStoreOptions {
	opt := gaesession.MemcacheStoreOptions{
		Codec:              &codec,
		Retries:            sc.retries,
		CacheTimeout:       callTimeout,
		BackupTimeout:      callTimeout,
		Cache:              t.cache,
		Backup:             t.backup,
		OnlyMemcache:       sc.only,
		AsyncDatastoreSave: o.async,
		OnError:            report,
	}
	if o.refresh {
		opt.RefreshInterval = time.Minute
	}
	return opt
}

type gaesessionVisit struct {
	store    session.Store
	old      *oldlib.Store   // nil: it is none
	sess     session.Session // nil: there is none
	returned func(error)
	second   session.Session // another one; nil: there is none
	index    int             // of the request that changes it; -1: none
	again    bool
	errs     []error // of a request that saves again
}

func (v *gaesessionVisit) create() string {
	attrs := map[string]any{}
	for name, value := range initial {
		attrs[name] = value
	}
	v.sess = session.NewSessionOptions(&session.SessOptions{Attrs: attrs, Timeout: timeout})
	v.store.Add(v.sess)
	return v.sess.ID()
}

func (v *gaesessionVisit) load(id string) *view {
	v.sess = v.store.Get(id)
	v.report()
	if v.sess == nil {
		return &view{none: true}
	}
	return &view{attrs: texts(v.sess.Attrs())}
}

// loadSecond loads another session, and act changes it then.
func (v *gaesessionVisit) loadSecond(id string, index int) *view {
	v.second, v.index = v.store.Get(id), index
	v.report()
	if v.second == nil {
		return &view{none: true}
	}
	return &view{attrs: texts(v.second.Attrs())}
}

func (v *gaesessionVisit) act(o op, value string) {
	if v.second != nil && v.index >= 0 && o.attr != "" {
		v.second.SetAttr(secondAttr, secondValue(v.index))
	}
	switch {
	case v.sess == nil:
	case o.logout:
		v.store.Remove(v.sess)
	case o.attr != "" && o.delete:
		v.sess.SetAttr(o.attr, nil)
	case o.attr != "":
		v.sess.SetAttr(o.attr, value)
	}
}

func (v *gaesessionVisit) moved() string { return "" }

func (v *gaesessionVisit) close() {
	v.store.Close()
	if v.old != nil && v.old.Err() != nil {
		v.returned(v.old.Err())
	}
	if err := errors.Join(v.errs...); v.again && errors.Is(err, gaesession.ErrNotSaved) {
		v.errs = nil
		v.store.Close()
	}
	v.report()
}

func (v *gaesessionVisit) report() {
	for _, err := range v.errs {
		v.returned(err)
	}
	v.errs = nil
}

// newID is one that session.NewSession makes.
func (gaesessionStore) newID() string { return session.NewSession().ID() }
