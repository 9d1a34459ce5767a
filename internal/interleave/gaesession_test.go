//go:build go1.25

package interleave

import (
	"context"
	"encoding/json"
	"time"

	"github.com/icza/session"
	"google.golang.org/appengine/v2/memcache"

	"github.com/gaesession/gaesession"
)

// codec is quicker than gob, and a session has one encoding, so that schedules
// can be repeated exactly.
var codec = memcache.Codec{Marshal: json.Marshal, Unmarshal: json.Unmarshal}

// gaesessionStore is the store of the root package.
type gaesessionStore struct{}

func (gaesessionStore) kept() kept { return kept{kind: "sess_", value: "val", expires: "exp"} }

func (gaesessionStore) purge(ctx context.Context) error {
	_, err := gaesession.PurgeExpired(ctx, "sess_")
	return err
}

func (gaesessionStore) decode(value []byte) (stored, error) {
	var v struct {
		AccessedF time.Time
		AttrsF    map[string]string
	}
	err := json.Unmarshal(value, &v)
	return stored{v.AccessedF, v.AttrsF}, err
}

func (gaesessionStore) visit(ctx context.Context, sc scenario, o op, returned, _ func(error)) visit {
	opt := gaesession.MemcacheStoreOptions{
		Codec:              &codec,
		Retries:            sc.retries,
		OnlyMemcache:       sc.only,
		AsyncDatastoreSave: o.async,
		OnError:            func(_ context.Context, err error) { returned(err) },
	}
	if o.refresh {
		opt.RefreshInterval = time.Minute
	}
	return &gaesessionVisit{store: gaesession.NewMemcacheStoreOptions(ctx, &opt)}
}

type gaesessionVisit struct {
	store session.Store
	sess  session.Session // nil: there is none
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
	if v.sess = v.store.Get(id); v.sess == nil {
		return &view{none: true}
	}
	return &view{attrs: texts(v.sess.Attrs())}
}

func (v *gaesessionVisit) act(o op, value string) {
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

func (v *gaesessionVisit) close() { v.store.Close() }
