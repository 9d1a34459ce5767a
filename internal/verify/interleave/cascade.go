//go:build go1.25

package interleave

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/gorilla/securecookie"
	"github.com/gorilla/sessions"

	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/internal/verify/oldlib"
)

const (
	cookieName = "session"
	// fixedRetries is how often this store and that of scsstore try a call that
	// fails.
	fixedRetries = 3
	// longer than the session's own timeout: another MaxAge is saved even when
	// nothing else has changed.
	longerTimeout = timeout + time.Minute
)

var hashKey = []byte("a hash key of thirty-two bytes..")

// cascadeStore is cascadestore's, on both services. Requests on App Engine
// share one.
type cascadeStore struct {
	*cascadestore.CascadeStore
	// anyAge reads cookies however old they are: time may pass while a request
	// goes on.
	anyAge securecookie.Codec
}

var cascade = newCascadeStore(cascadestore.NewCascadeStore(cascadestore.DistributedBackends, hashKey))

func newCascadeStore(cs *cascadestore.CascadeStore) cascadeStore {
	cs.SetMaxAge(int(timeout / time.Second))
	cs.CacheTimeout, cs.BackupTimeout = callTimeout, callTimeout
	cs.Logger = slog.New(errorLog{})
	return cascadeStore{cs, securecookie.New(hashKey, nil).MaxAge(0)}
}

// errorLog hands what the store logs to the request that the context is of.
type errorLog struct{}

type logKey struct{}

func (errorLog) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelError }

func (errorLog) Handle(ctx context.Context, r slog.Record) error {
	logged, ok := ctx.Value(logKey{}).(func(error))
	if !ok {
		return errors.New("logged without a request's context")
	}
	err := errors.New(r.Message)
	r.Attrs(func(a slog.Attr) bool {
		if e, ok := a.Value.Any().(error); ok {
			err = e
		}
		return true
	})
	logged(err)
	return nil
}

func (l errorLog) WithAttrs([]slog.Attr) slog.Handler { return l }
func (l errorLog) WithGroup(string) slog.Handler      { return l }

func (cascadeStore) kept() Kept {
	return Kept{Kind: "Session", Value: "Value", Expires: "ExpiresAt", Prefix: cascadestore.DefaultKeyPrefix}
}

func (cascadeStore) purge(ctx context.Context) error {
	_, err := cascadestore.PurgeExpired(ctx)
	return err
}

func (cascadeStore) decode(value []byte) (s stored, err error) {
	var values map[any]any
	err = gob.NewDecoder(bytes.NewReader(value)).Decode(&values)
	return stored{attrs: texts(values), owner: ownerIn(values[ownerAttr])}, err
}

func (cs cascadeStore) visit(ctx context.Context, t tiers, sc scenario, o op, returned, logged func(error)) visit {
	if o.old {
		return &oldCascadeVisit{ctx: ctx, returned: returned}
	}
	ctx = context.WithValue(ctx, logKey{}, logged)
	if t.cache != nil {
		cs = newCascadeStore(cascadestore.NewTieredStore(t.cache, t.backup, hashKey))
		cs.SetMaxLength(0)
	} else if sc.hasOwners() {
		cs = newCascadeStore(cascadestore.NewCascadeStore(cascadestore.DistributedBackends, hashKey))
	}
	if sc.hasOwners() {
		cs.Owner = func(s *sessions.Session) string { return ownerIn(s.Values[ownerAttr]) }
		cs.MaxPerOwner = sc.most
	}
	return &cascadeVisit{cs: cs, ctx: ctx, sc: sc, op: o, returned: returned}
}

// A cascadeVisit is an HTTP request.
type cascadeVisit struct {
	cs       cascadeStore
	ctx      context.Context
	sc       scenario
	returned func(error)
	request  *http.Request
	session  *sessions.Session // nil: there is none
	op       op
	id       string // that it was loaded under; empty: it is new
	newID    string // that the browser is told
}

// open begins the request. An id comes in a signed cookie.
func (v *cascadeVisit) open(id string) (*sessions.Session, error) {
	v.request = newHTTPRequest(v.ctx)
	if id != "" {
		value, err := securecookie.EncodeMulti(cookieName, id, v.cs.Codecs...)
		if err != nil {
			return nil, err
		}
		v.request.AddCookie(&http.Cookie{Name: cookieName, Value: value})
	}
	return v.cs.New(v.request, cookieName)
}

func (v *cascadeVisit) create() string {
	s, err := v.open("")
	if err != nil {
		v.returned(err)
		return ""
	}
	for name, value := range newAttributes(v.sc, v.op) {
		s.Values[name] = value
	}
	v.session = s
	return s.ID
}

func (v *cascadeVisit) load(id string) *view {
	s, err := v.open(id)
	if err != nil {
		v.returned(err)
	}
	if s == nil || s.IsNew {
		return &view{none: true}
	}
	v.session, v.id = s, s.ID
	return &view{attrs: texts(s.Values)}
}

func (v *cascadeVisit) act(o op, value string) {
	v.op = o
	if o.enter {
		v.create()
		return
	}
	if v.session == nil {
		return
	}
	var err error
	switch {
	case o.owner != "":
		v.session.Values[ownerAttr] = o.owner
	case o.regenerate:
		err = v.cs.RegenerateID(v.request, v.session)
	}
	switch {
	case o.others:
		err = errors.Join(err, v.cs.RemoveOthers(v.request, v.session))
	case o.endall:
		err = v.cs.RemoveAll(v.ctx, cookieName, alice)
	}
	if err != nil {
		v.returned(err)
	}
	switch {
	case o.logout:
		v.session.Options.MaxAge = -1
	case o.refresh:
		v.session.Options.MaxAge = int(longerTimeout / time.Second)
	case o.attr != "" && o.delete:
		delete(v.session.Values, o.attr)
	case o.attr != "":
		v.session.Values[o.attr] = value
	}
}

func (v *cascadeVisit) moved() string { return v.newID }

func (v *cascadeVisit) close() {
	var err error
	switch {
	case v.op.endall && !v.op.logout:
		err = v.cs.RemoveAll(v.ctx, cookieName, alice)
	case v.session == nil:
	default:
		if err = v.save(); v.op.again && errors.Is(err, cascadestore.ErrNotSaved) {
			err = v.save()
		}
	}
	if err != nil {
		v.returned(err)
	}
}

var errCookie = errors.New("wrong cookie in the answer")

// save saves the session, and looks at the cookie that the browser gets.
func (v *cascadeVisit) save() error {
	answer := httptest.NewRecorder()
	err := v.cs.Save(v.request, answer, v.session)
	var cookie *http.Cookie
	for _, c := range answer.Result().Cookies() {
		cookie = c
	}
	switch {
	case v.op.logout:
		if cookie == nil || cookie.MaxAge >= 0 || cookie.Value != "" {
			return errors.Join(err, fmt.Errorf("%w: it does not end that of a removed session", errCookie))
		}
	case err != nil && !errors.Is(err, cascadestore.ErrNotBackedUp) && !errors.Is(err, cascadestore.ErrNotPublished):
		if cookie != nil {
			return errors.Join(err, fmt.Errorf("%w: it is that of a session that was not saved", errCookie))
		}
	default:
		var id string
		if cookie == nil || v.cs.anyAge.Decode(cookieName, cookie.Value, &id) != nil || id != v.session.ID {
			return errors.Join(err, fmt.Errorf("%w: it is not the session's", errCookie))
		}
		if id != v.id {
			v.newID = id
		}
	}
	return err
}

// An oldCascadeVisit is a request of an instance with dsoprea's store.
type oldCascadeVisit struct {
	ctx      context.Context
	returned func(error)
	id       string
	values   map[any]any
}

var oldCascade = oldlib.Cascade{MaxAge: timeout}

func (v *oldCascadeVisit) create() string { return "" }

func (v *oldCascadeVisit) load(id string) *view {
	var err error
	if v.values, err = oldCascade.Load(v.ctx, id); err != nil {
		v.returned(err)
	}
	if v.id = id; v.values == nil {
		return &view{none: true}
	}
	return &view{attrs: texts(v.values)}
}

func (v *oldCascadeVisit) act(o op, value string) {
	if o.attr != "" && v.values != nil {
		v.values[o.attr] = value
	}
}

func (v *oldCascadeVisit) moved() string { return "" }

func (v *oldCascadeVisit) close() {
	if v.values == nil {
		return
	}
	if err := oldCascade.Save(v.ctx, v.id, v.values); err != nil {
		v.returned(err)
	}
}
