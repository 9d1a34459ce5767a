package cascadestore

import (
	"errors"
	"net/http"
	"slices"
	"sync"

	"google.golang.org/appengine/v2"

	"github.com/gaesession/gaesession/internal/live"
	"github.com/gaesession/gaesession/internal/web"
)

// A visit is a request that has come through Handler. It is the request's web.Hook.
type visit struct {
	store   *CascadeStore
	request *http.Request // has gorilla's registry, as the app's request has
	known   *request      // what is known of its sessions
	around  *visit        // of a Handler of another store, around this one; nil: none

	sent bool    // the header has left
	lost []error // why changes are nowhere; an error response went out then

	mu    sync.Mutex // of what follows, since RemoveAll may be called by any goroutine
	ended []string   // the keys of sessions that RemoveAll and RemoveRefs have ended
}

// Handler returns a handler that has next serve requests, and saves the sessions that
// Get has returned and that a request has changed and not saved itself. Handlers
// inside use the store as always, and may leave out Save; sessions of New are left to
// them. If Err returns an error, Handler answers 500 to every request and logs that
// error.
//
//   - A session counts as changed if its Values or its MaxAge are not what they were,
//     deeply compared, or if RegenerateID was called. A new session with no Values
//     is not saved. One with a MaxAge below zero is removed. A session that a request
//     only reads is left alone, and gets no cookie.
//   - Handler saves before the first byte of the header leaves, whatever sends it:
//     WriteHeader, Write, Flush or Hijack, or the end of next. So the next request
//     sees every change.
//   - The cookie is set when a session is new, has a new id, or has other Options than
//     the store's and its own MaxAge; and again with the first change before the
//     header in each tenth of its MaxAge, not with every change. So a browser may drop
//     the cookie by a tenth of MaxAge before the session ends. Save, where the app
//     calls it, always sets it.
//   - If a change is saved nowhere, ErrorHandler answers instead of the app: the
//     header is what it was when Handler was entered, what the app writes fails, and
//     no cookie is set for what was not saved. With ErrNotBackedUp and
//     ErrNotPublished the app's response goes out, and Logger gets the error.
//   - A session that RemoveAll or RemoveRefs has ended, with the request's context, is
//     not saved any more, and its cookie ends.
//   - What Save has returned an error for is not saved again, unless it changes again:
//     the app has answered for it.
//   - A response that sets a session's cookie has Cache-Control: no-store unless it
//     has a Cache-Control; one of a request that used a session has Vary: Cookie.
//   - If next panics, nothing is saved that was not saved before. A middleware that
//     recovers from panics belongs outside of Handler: inside, it makes a panic look
//     like a response, and what the request had changed until then is saved.
//   - What is changed after the header has left is saved when next returns. A new
//     session, and a new id, are refused with ErrHeaderSent then, since their cookie
//     cannot reach the client. That is also the error of a Hijack before the cookie
//     is set.
//
// Handler works inside http.TimeoutHandler and appengine.Middleware, not the other
// way round, and as a middleware of gorilla/mux. A Handler of the same store inside
// passes requests on. A request's sessions belong to one goroutine at a time, which
// at the moment of the header is the one that writes.
func (cs *CascadeStore) Handler(next http.Handler) http.Handler {
	return web.Handler(next, cs, func(r *http.Request) web.Hook {
		if err := cs.Err(); err != nil {
			cs.logs().fail(appengine.NewContext(r), err)
			return nil
		}
		// Gorilla's registry, which r gets here if it has none, calls the store with a
		// request of its own. So the visit is found there, and not in a context.
		req := requestOf(r)
		req.visit = &visit{store: cs, request: r, known: req, around: req.visit}
		return req.visit
	})
}

// isSent reports whether Handler has seen the header leave.
func (req *request) isSent(cs *CascadeStore) bool {
	for v := req.visit; v != nil; v = v.around {
		if v.store == cs {
			return v.sent
		}
	}
	return false
}

// BeforeHeader implements web.Hook.
func (v *visit) BeforeHeader(header http.Header, hijack bool) error {
	v.lost = v.save(saving{header: header, sent: hijack, onlyChanges: true})
	v.sent = true
	if len(v.lost) == 0 {
		v.complete(header, false)
	}
	return errors.Join(v.lost...)
}

// save saves what the app has changed and has not saved itself. It returns why
// changes are nowhere, and logs other errors.
func (v *visit) save(how saving) (lost []error) {
	v.known.adopt()
	v.mu.Lock()
	how.ended = slices.Clone(v.ended)
	v.mu.Unlock()
	for _, m := range v.known.got {
		if m.store != v.store {
			continue
		}
		switch err := v.store.saveSession(v.request, v.known, m.session, how); {
		case !live.IsSaved(err):
			lost = append(lost, err)
		case err != nil:
			v.store.logs().fail(appengine.NewContext(v.request), err)
		}
	}
	return lost
}

// end notes that sessions with those keys have ended.
func (v *visit) end(keys []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ended = append(v.ended, keys...)
}

// complete gives a response what it needs because of the sessions that were used:
// an error response also the cookies of those that were saved.
func (v *visit) complete(header http.Header, isError bool) {
	for name, n := range v.known.named {
		if name.store != v.store {
			continue
		}
		web.VaryCookie(header)
		if n.cookie == nil {
			continue
		}
		if isError {
			web.ReplaceCookie(header, n.cookie)
		}
		web.NoStore(header)
	}
}

// ServeError implements web.Hook.
func (v *visit) ServeError(w http.ResponseWriter, r *http.Request, err error) {
	v.complete(w.Header(), true)
	if v.store.ErrorHandler != nil {
		v.store.ErrorHandler(w, r, err)
		return
	}
	v.report(v.lost)
	web.Fail(w, err, errSerializer, live.ErrOwnerFunc)
}

// Finish implements web.Hook: it saves what was changed after the header had left.
func (v *visit) Finish() {
	if len(v.lost) == 0 {
		v.report(v.save(saving{sent: true, onlyChanges: true}))
	}
	v.known.visit = v.around // which may still have the header
}

func (v *visit) report(errs []error) {
	for _, err := range errs {
		v.store.logs().fail(appengine.NewContext(v.request), err)
	}
}
