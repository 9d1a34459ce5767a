//go:build go1.25

package interleave

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/alexedwards/scs/v2"

	"github.com/gaesession/gaesession/scsstore"
)

// scsStore is scsstore's, which every request has of its own.
type scsStore struct{ plain bool }

func (scsStore) kept() Kept {
	return Kept{Kind: scsstore.DefaultDSEntityName, Value: "val", Expires: "exp", Prefix: scsstore.DefaultKeyPrefix}
}

func (scsStore) purge(ctx context.Context) error {
	_, err := scsstore.PurgeExpired(ctx, "")
	return err
}

// scsCodec is quicker than gob, and a session has one encoding.
type scsCodec struct{}

type scsSession struct {
	Deadline time.Time
	Values   map[string]any
}

func (scsCodec) Encode(deadline time.Time, values map[string]any) ([]byte, error) {
	return json.Marshal(scsSession{deadline, values})
}

func (scsCodec) Decode(b []byte) (time.Time, map[string]any, error) {
	var s scsSession
	err := json.Unmarshal(untrailed(b), &s)
	return s.Deadline, s.Values, err
}

func (scsStore) decode(value []byte) (stored, error) {
	_, values, err := scsCodec{}.Decode(value)
	return stored{attrs: texts(values)}, err
}

func (s scsStore) visit(ctx context.Context, t tiers, _ scenario, o op, returned, _ func(error)) visit {
	v := &scsVisit{served: newServed(ctx), returned: returned, op: o}
	store := scsstore.New(t.cache, t.backup, &scsstore.Options{
		Codec: scsCodec{}, CacheTimeout: callTimeout, BackupTimeout: callTimeout,
		OnError: func(_ context.Context, err error) {
			// That a load could not save what others had left unsaved says nothing of
			// what this request saves.
			isSettle := errors.Is(err, scsstore.ErrNotBackedUp) || errors.Is(err, scsstore.ErrNotPublished) || errors.Is(err, scsstore.ErrNotSaved)
			if !isSettle || !strings.HasPrefix(err.Error(), "scsstore: load session") {
				returned(err)
			}
		},
	})
	manager := *scsManager
	v.manager = &manager
	v.manager.Store, v.manager.Codec = store, scsCodec{}
	v.manager.IdleTimeout, v.manager.Lifetime = timeout, lifetime
	v.manager.ErrorFunc = func(_ http.ResponseWriter, _ *http.Request, err error) { v.failed = err }
	if v.handler = store.Handler(v.manager, http.HandlerFunc(v.serve)); s.plain {
		v.handler = v.manager.LoadAndSave(http.HandlerFunc(v.serve))
	}
	return v
}

// scsManager is copied: scs.New begins a goroutine, which must be in no bubble.
var scsManager = scs.New()

// lifetime is longer than any schedule: sessions end when they are not used.
const lifetime = 1000 * time.Hour

// An scsVisit is an HTTP request.
type scsVisit struct {
	*served
	returned func(error)
	op       op
	manager  *scs.SessionManager
	handler  http.Handler
	failed   error           // that scs handed to the app
	session  context.Context // nil: there is none
	token    string
}

// begin begins the request of a browser that has the token.
func (v *scsVisit) begin(token string) *http.Request {
	return v.served.begin(v.handler, &http.Cookie{Name: v.manager.Cookie.Name, Value: token})
}

func (v *scsVisit) create() string {
	v.session = v.begin("").Context()
	for name, value := range initial {
		v.manager.Put(v.session, name, value)
	}
	if err := v.manager.RenewToken(v.session); err != nil { // draws one
		v.returned(err)
	}
	v.token = v.manager.Token(v.session)
	return v.token
}

func (v *scsVisit) load(id string) *view {
	r := v.begin(id)
	if r == nil {
		v.returned(v.failed)
		return &view{none: true}
	}
	ctx := r.Context()
	if v.token = v.manager.Token(ctx); v.token == "" {
		return &view{none: true}
	}
	v.session = ctx
	values := map[string]any{}
	for _, name := range v.manager.Keys(ctx) {
		values[name] = v.manager.Get(ctx, name)
	}
	return &view{attrs: texts(values)}
}

func (v *scsVisit) act(o op, value string) {
	v.op = o
	switch {
	case v.session == nil:
	case o.logout:
		if err := v.manager.Destroy(v.session); err != nil {
			v.returned(err)
			v.op.logout = false // scs keeps the cookie
		}
	case o.refresh:
		v.manager.SetDeadline(v.session, v.manager.Deadline(v.session).Add(time.Minute))
	case o.attr != "" && o.delete:
		v.manager.Remove(v.session, o.attr)
	case o.attr != "":
		v.manager.Put(v.session, o.attr, value)
	}
}

func (v *scsVisit) moved() string { return "" }

func (v *scsVisit) close() {
	if v.op.again && v.session != nil {
		// What fails is tried again, and reported, when the answer begins.
		if _, _, err := v.manager.Commit(v.session); err != nil && !errors.Is(err, scsstore.ErrNotSaved) {
			v.returned(err)
		}
	}
	v.end()
	if v.session == nil {
		return
	}
	if err := errors.Join(v.failed, v.checkCookie()); err != nil {
		v.returned(err)
	}
}

// checkCookie looks at the cookie that the browser gets.
func (v *scsVisit) checkCookie() error {
	cookie := v.cookie()
	switch {
	case v.failed != nil:
		if cookie != nil {
			return fmt.Errorf("%w: it is that of a session that was not saved", errCookie)
		}
	case v.op.logout:
		if cookie == nil || cookie.MaxAge >= 0 || cookie.Value != "" {
			return fmt.Errorf("%w: it does not end that of a removed session", errCookie)
		}
	case cookie == nil || cookie.Value != v.token:
		return fmt.Errorf("%w: it is not the session's", errCookie)
	}
	return nil
}
