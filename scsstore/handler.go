package scsstore

import (
	"context"
	"net/http"
	"sync"

	"github.com/alexedwards/scs/v2"

	"github.com/gaesession/gaesession/internal/live"
	"github.com/gaesession/gaesession/internal/scscodec"
)

// A request holds what the store knows of the sessions of one HTTP request. It
// lives in the request's context. Without Handler there is one for each call.
type request struct {
	form form
	live *live.Store

	mu     sync.Mutex
	copies map[string]*live.Copy // by token
	// drawsTokens says that a token which the request does not know is new: scs has
	// drawn it.
	drawsTokens bool
}

type requestKey struct{ store *Store }

// request returns what is known of the sessions of the request that ctx is of.
func (s *Store) request(ctx context.Context) *request {
	if req, ok := ctx.Value(requestKey{s}).(*request); ok {
		return req
	}
	return s.newRequest(ctx, s.opt.Codec)
}

// copy returns the request's copy of a session, and whether the token is new; nil: no
// session can have that token.
func (req *request) copy(token string) (c *live.Copy, isNew bool) {
	if !req.live.ValidID(token) {
		return nil, false
	}
	req.mu.Lock()
	defer req.mu.Unlock()
	if c = req.copies[token]; c != nil {
		return c, false
	}
	c = req.live.Copy(token)
	req.copies[token] = c
	return c, req.drawsTokens
}

// Handler is sm.LoadAndSave for a manager whose Store is s. It also remembers what
// the request has loaded, so that a commit saves only what the request has changed,
// and overlapping requests lose nothing. Use it instead of LoadAndSave, inside
// appengine.Middleware.
//
// In place of scs.GobCodec, Handler uses a codec of the same bytes that takes less
// time for booleans, numbers and strings.
//
// Errors go to sm.ErrorFunc, as those of LoadAndSave do. Like that, Handler reads sm's
// fields with each request: they must be set before the first one.
//
// Where one Handler is inside another of the same store, both managers need the same
// Codec. Otherwise no change of the inner manager's session is saved: its ErrorFunc
// gets an error of the codec.
func (s *Store) Handler(sm *scs.SessionManager, next http.Handler) http.Handler {
	inner := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req := s.request(r.Context())
		req.mu.Lock()
		// A session that the request has, and has not asked for, comes from a
		// LoadAndSave around this one, and its token is not new.
		req.drawsTokens = len(req.copies) > 0 || sm.Token(r.Context()) == ""
		req.mu.Unlock()
		next.ServeHTTP(w, r)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		faster := *sm // it finds sm's session in a context, and sm finds its
		faster.Codec = scscodec.Faster(sm.Codec)
		ctx := r.Context()
		if _, nested := ctx.Value(requestKey{s}).(*request); !nested {
			ctx = context.WithValue(ctx, requestKey{s}, s.newRequest(ctx, faster.Codec))
		}
		faster.LoadAndSave(inner).ServeHTTP(w, r.WithContext(ctx))
	})
}
