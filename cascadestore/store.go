package cascadestore

import (
	"context"
	"encoding/base32"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/gorilla/securecookie"
	"github.com/gorilla/sessions"
	"google.golang.org/appengine/v2"

	"github.com/gaesession/gaesession/internal/tiered"
	"github.com/gaesession/gaesession/tier"
)

// The backends. They are bits, to be combined.
const (
	// RequestBackend keeps the sessions of a request with the request's context,
	// and nowhere else: a session that was loaded or saved once is seen again by
	// further calls of New in the same request without asking the services. What
	// other requests change meanwhile is not seen then.
	RequestBackend = 1 << iota
	// MemcacheBackend keeps sessions in Memcache, which may forget them.
	MemcacheBackend
	// DatastoreBackend keeps sessions in Datastore.
	DatastoreBackend
)

const (
	// DistributedBackends is what most apps want.
	DistributedBackends = MemcacheBackend | DatastoreBackend
	// AllBackends has the staleness of RequestBackend.
	AllBackends = RequestBackend | MemcacheBackend | DatastoreBackend

	// DefaultExpireSeconds is the MaxAge of a new store's Options: 30 days.
	DefaultExpireSeconds = 86400 * 30
	// MaxValueLength is how many bytes a serialized session may have by default.
	MaxValueLength = 4096
	// DefaultMaxAgeSeconds is how long the services keep a session whose MaxAge
	// is 0, by default: 20 minutes.
	DefaultMaxAgeSeconds = 60 * 20
	// DefaultKeyPrefix is put before the id to make a session's key.
	DefaultKeyPrefix = "session."
)

// CascadeStore is a gorilla/sessions store. NewCascadeStore makes one. A store
// may be used by several requests at once; its fields and settings have to be
// set before the first one. The sessions of one request belong to one goroutine
// at a time, as gorilla's registry does.
type CascadeStore struct {
	backendTypes int
	maxLength    int
	keyPrefix    string
	serializer   SessionSerializer
	env          environment
	err          error
	cache        tier.Cache  // nil: Memcache
	backup       tier.Backup // nil: Datastore

	// Codecs sign, and encrypt, the session's id in the cookie. The first one
	// writes; the others are for cookies that were written with older keys.
	Codecs []securecookie.Codec

	// Options is what new sessions get a copy of: Path "/" and a MaxAge of
	// DefaultExpireSeconds, and nothing else, so that cookies look as the
	// original package's do. New apps should set HttpOnly, Secure and SameSite.
	// To change MaxAge use SetMaxAge.
	Options *sessions.Options

	// DefaultMaxAge is how long the services keep a session whose
	// Options.MaxAge is 0, in seconds: the browser drops the cookie of such a
	// session when it is closed. Less than 1 means DefaultMaxAgeSeconds, which
	// is the default.
	DefaultMaxAge int

	// Logger gets the errors that no method returns, at error level and with a
	// stack trace as attribute "stack". If the environment variable
	// SessionCascadeDisplayLogging is true, it also gets each step at debug level,
	// and the errors that are returned. Session ids are never written, only a
	// short hash of them.
	//
	// Nil, the default, means log/slog's default logger, if the app has set one.
	// Otherwise errors are written in the form that Cloud Logging knows, on App
	// Engine with the request's trace.
	Logger *slog.Logger
}

// NewCascadeStore returns a store on the chosen backends with default settings.
// The keys come in pairs: one for authentication, of at least 32 bytes, and one
// for encryption, of 16, 24 or 32 bytes, which may be nil or, in the last pair,
// left out. The first pair signs new cookies, the others are for cookies that
// were signed before; see securecookie.CodecsFromPairs.
//
// NewCascadeStore also reads the environment variables CkDoDisplayLogging and
// CkMaxMemcacheSessionSizeBytes. If one of them is invalid, a key has a wrong
// length or is missing, or no backend is chosen, the store cannot be used: the
// error is logged, and every method that returns an error returns it. Err does,
// too: call it at startup.
func NewCascadeStore(backendTypes int, keyPairs ...[]byte) *CascadeStore {
	env, err := readEnvironment()
	if backendTypes&AllBackends == 0 || backendTypes&^AllBackends != 0 {
		err = errors.Join(err, errNoBackend)
	}
	codecs := securecookie.CodecsFromPairs(keyPairs...)
	err = errors.Join(err, checkKeys(keyPairs, codecs))
	cs := &CascadeStore{
		backendTypes:  backendTypes,
		maxLength:     MaxValueLength,
		keyPrefix:     DefaultKeyPrefix,
		serializer:    GobSerializer{},
		env:           env,
		Codecs:        codecs,
		Options:       defaultOptions(),
		DefaultMaxAge: DefaultMaxAgeSeconds,
	}
	if err != nil {
		cs.fail(err)
	}
	cs.SetMaxAge(DefaultExpireSeconds)
	return cs
}

// minKeyLength is that of HMAC-SHA-256, which securecookie signs with: a shorter
// key can be guessed, given one cookie.
const minKeyLength = 32

func checkKeys(keyPairs [][]byte, codecs []securecookie.Codec) (err error) {
	if len(keyPairs) == 0 {
		return errNoKeys
	}
	for i := 0; i < len(keyPairs); i += 2 {
		if n := len(keyPairs[i]); n < minKeyLength {
			err = errors.Join(err, fmt.Errorf("%w: it has %d bytes, and should have at least %d", errShortKey, n, minKeyLength))
		}
	}
	for _, codec := range codecs {
		if _, cerr := codec.Encode("key", "pair"); cerr != nil {
			err = errors.Join(err, fmt.Errorf("key pair: %w", cerr))
		}
	}
	return err
}

// NewTieredStore is NewCascadeStore on other services than App Engine's: cache
// may be tier.None. They have prefixes and kinds of their own, so SetKeyPrefix
// has no effect, and neither has CkMaxMemcacheSessionSizeBytes.
func NewTieredStore(cache tier.Cache, backup tier.Backup, keyPairs ...[]byte) *CascadeStore {
	backends := DistributedBackends
	if cache == tier.None {
		backends = DatastoreBackend
	}
	cs := NewCascadeStore(backends, keyPairs...)
	cs.cache, cs.backup = cache, backup
	if cache == nil || backup == nil {
		cs.fail(errNoTier)
	}
	return cs
}

// fail notes why the store cannot be used.
func (cs *CascadeStore) fail(err error) {
	var before constructionError
	if errors.As(cs.err, &before) {
		err = errors.Join(before.err, err)
	}
	cs.err = trace(constructionError{err})
	cs.logs().fail(context.Background(), cs.err)
}

func defaultOptions() *sessions.Options {
	return &sessions.Options{Path: "/", MaxAge: DefaultExpireSeconds}
}

// Err returns why the store cannot be used, or nil.
func (cs *CascadeStore) Err() error {
	if cs.err == nil && cs.serializer == nil {
		return trace(constructionError{errNotMade})
	}
	return cs.err
}

// SetMaxLength sets how many bytes a serialized session may have; 0 means that
// there is no limit but those of the services, about 1 MiB. A negative l is
// ignored. The default is MaxValueLength. The cookie, which holds the id only,
// has nothing to do with it.
func (cs *CascadeStore) SetMaxLength(l int) {
	if l >= 0 {
		cs.maxLength = l
	}
}

// SetKeyPrefix sets what is put before the id to make a session's key, in
// Memcache and in Datastore. The default is DefaultKeyPrefix.
func (cs *CascadeStore) SetKeyPrefix(p string) { cs.keyPrefix = p }

// SetSerializer sets what turns Values into bytes; nil means GobSerializer, the
// default.
func (cs *CascadeStore) SetSerializer(ss SessionSerializer) {
	if ss == nil {
		ss = GobSerializer{}
	}
	cs.serializer = ss
}

// SetMaxAge sets how many seconds a session lives after it was saved last: in
// the services, in the browser and in the signature of the cookie. The default
// is DefaultExpireSeconds; 0 means that the cookie ends with the browser's
// session and its signature never, and the services go by DefaultMaxAge. The
// codecs that are no *securecookie.SecureCookie keep what they have.
//
// A MaxAge that is lowered ends sessions by their cookies: the services keep
// those that were saved before for as long as they were to live then.
//
// To remove a session set its own Options.MaxAge to -1 and save it.
func (cs *CascadeStore) SetMaxAge(v int) {
	if cs.Options == nil {
		cs.Options = defaultOptions()
	}
	cs.Options.MaxAge = v
	for _, codec := range cs.Codecs {
		if c, ok := codec.(*securecookie.SecureCookie); ok {
			c.MaxAge(v)
		}
	}
}

func (cs *CascadeStore) logs() logs { return logs{cs.Logger, cs.env.displayLogging} }

// Get returns the session of that name from gorilla's registry, or what New
// returns, which then is in the registry.
func (cs *CascadeStore) Get(r *http.Request, name string) (*sessions.Session, error) {
	return sessions.GetRegistry(r).Get(cs, name)
}

// New returns the session that the request's cookie of that name belongs to, or
// a new one, with IsNew set and an id that nobody knows, when there is none. It
// is never nil. An error comes with a new session:
//
//   - what securecookie says, when the cookie is forged, expired or damaged;
//   - that of a serializer which cannot read what is stored;
//   - that of a service, when it cannot be told whether the session exists. Then
//     the session may be removed but not saved: Save returns the error again.
//
// A service that failed while another one knew the answer is logged.
//
// New copies the session back into Memcache if that had lost it, and into
// Datastore if that has lacked something of it for more than three seconds.
func (cs *CascadeStore) New(r *http.Request, name string) (*sessions.Session, error) {
	if err := cs.Err(); err != nil {
		return cs.blank(name), err
	}
	req := requestOf(r)
	ctx := appengine.NewContext(r)
	t := &track{}
	session, err := cs.find(ctx, req, r, name, t)
	if t.id == "" {
		t.id = newID()
	}
	session.ID = t.id
	req.tracks[session] = t
	return session, cs.logs().returned(ctx, err)
}

// blank returns an empty session.
func (cs *CascadeStore) blank(name string) *sessions.Session {
	session := sessions.NewSession(cs, name)
	if cs.Options != nil {
		*session.Options = *cs.Options
	} else {
		session.Options = defaultOptions()
	}
	session.IsNew = true
	return session
}

var idEncoding = base32.StdEncoding.WithPadding(base32.NoPadding)

// newID returns an id of 256 random bits, empty when there is no randomness.
func newID() string {
	return idEncoding.EncodeToString(securecookie.GenerateRandomKey(32))
}

// find returns the session that the request belongs to. It sets t.id, unless
// the session is a new one.
func (cs *CascadeStore) find(ctx context.Context, req *request, r *http.Request, name string, t *track) (*sessions.Session, error) {
	var cookieErr error
	if c, err := r.Cookie(name); err == nil {
		var id string
		if err := securecookie.DecodeMulti(name, c.Value, &id, cs.Codecs...); err != nil {
			cookieErr = describeCookie(err)
		} else {
			t.cookieID = id
		}
	}
	id := t.cookieID
	if k, ok := req.find(cs, name, id); ok {
		if k.loaded == nil {
			cs.logs().step(ctx, "removed in this request", id)
			return cs.blank(name), nil
		}
		cs.logs().step(ctx, "found in the request", k.id)
		t.loaded = k.loaded
		return cs.open(name, k.id, t)
	}
	switch {
	case cookieErr != nil:
		return cs.blank(name), cookieErr
	case id == "":
		return cs.blank(name), nil
	case !cs.isValidID(id):
		cs.logs().fail(ctx, describe("load session", id, errInvalidID))
		return cs.blank(name), nil
	}
	session, err := cs.load(ctx, name, id, t)
	if err == nil && t.loaded != nil {
		req.keep(cs, name, t)
	}
	return session, err
}

// load returns the session that the services have under that id, or a new one.
func (cs *CascadeStore) load(ctx context.Context, name, id string, t *track) (*sessions.Session, error) {
	services, ok := cs.tiers(ctx, cs.blank(name))
	if !ok {
		return cs.blank(name), nil
	}
	loaded, err := services.Load(ctx, id)
	switch {
	case loaded == nil && errors.Is(err, errSerializer) && (services.Backup == nil || !errors.Is(err, tiered.ErrUnavailable)):
		// Memcache has what the original has stored and this instance cannot
		// decode, and nobody has anything else.
		t.unreadable = &unreadable{id: id}
		return cs.blank(name), describe("load session", id, err)
	case errors.Is(err, tiered.ErrUnavailable):
		t.id, t.unknown = id, describe("load session", id, err)
		return cs.blank(name), t.unknown
	}
	cs.logs().fail(ctx, describe("load session", id, err))
	if loaded == nil {
		cs.logs().step(ctx, "not found", id)
		return cs.blank(name), nil
	}
	t.loaded = loaded
	session, err := cs.open(name, id, t)
	if err != nil && loaded.FromCache() {
		// The backup may have one that can be read.
		if stored, berr := services.LoadBackup(ctx, id); berr == nil && stored != nil {
			t.loaded = stored
			if opened, oerr := cs.open(name, id, t); oerr == nil {
				cs.logs().fail(ctx, err)
				session, err = opened, nil
			}
		}
	}
	if err != nil {
		return session, err
	}
	err = services.Settle(ctx, id, t.loaded)
	if errors.Is(err, ErrRemoved) {
		t.loaded, t.id, t.was = nil, "", snapshot{}
		return cs.blank(name), nil
	}
	cs.logs().fail(ctx, describe("load session", id, err))
	return session, nil
}

// open returns the session that t.loaded is the value of, or a new one when
// that cannot be decoded.
func (cs *CascadeStore) open(name, id string, t *track) (*sessions.Session, error) {
	session := cs.blank(name)
	session.ID = id
	if err := cs.decode(t.loaded.Value(), session); err != nil {
		t.id, t.unreadable, t.loaded = "", &unreadable{id, t.loaded}, nil
		return cs.blank(name), describe("load session", id, err)
	}
	t.id, t.unreadable, t.was = id, nil, takeSnapshot(t.loaded.Value(), session)
	session.IsNew = false
	return session, nil
}

// maxAge is how long the services keep a session after it was saved.
func (cs *CascadeStore) maxAge(o *sessions.Options) time.Duration {
	seconds := o.MaxAge
	if seconds == 0 {
		seconds = cs.DefaultMaxAge
		if seconds < 1 {
			seconds = DefaultMaxAgeSeconds
		}
	}
	const longest = 100 * 365 * 24 * time.Hour // so that nothing overflows
	return time.Duration(min(int64(seconds), int64(longest/time.Second))) * time.Second
}

// refreshInterval is how old the expiry in the services may become before a
// Save that changes nothing writes it again.
func refreshInterval(maxAge time.Duration) time.Duration { return maxAge / 10 }

// expiry is when the services are to let go a session that is saved now. So
// that skipped refreshes never end a session early it is one interval late; the
// cookie, and its signature, end in time.
func (cs *CascadeStore) expiry(o *sessions.Options, now time.Time) time.Time {
	maxAge := cs.maxAge(o)
	return now.Add(maxAge + refreshInterval(maxAge))
}
