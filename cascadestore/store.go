package cascadestore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/gorilla/securecookie"
	"github.com/gorilla/sessions"

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
