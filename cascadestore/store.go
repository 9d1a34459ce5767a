package cascadestore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

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
	weakKey      error       // the first key is short; nil: it is not
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

	// CacheTimeout is how long one operation on the cache may take, with all
	// attempts; 500 ms by default, and half of the time that is left until the
	// request's deadline at most. BackupTimeout is how long one attempt at an
	// operation on the backup may take; 5 s by default. A timeout is not tried
	// again.
	CacheTimeout, BackupTimeout time.Duration

	// MaxLifetime is how long a session lives after it was created, however often
	// it is used. The default is no limit.
	MaxLifetime time.Duration

	// Owner says whose a session is: the number of the user who has logged in, for
	// example, or nothing as long as nobody has. It is something that never changes,
	// so not an address. Owner gets a copy of what is to be saved.
	//
	// With Owner a user can be logged out everywhere: see RemoveAll. If the owner
	// changes, at login for example, the session gets a new id as by RegenerateID,
	// and MaxLifetime begins again. A login needs Datastore: if that fails, it is
	// ErrNotSaved. Sessions that logged in before the app had an Owner are known once
	// they have been saved again.
	Owner func(*sessions.Session) string

	// Label is what a session is called in SessionsOf, 100 bytes at most. It is asked
	// with a copy, as Owner is, when the list of the owner's sessions is to be changed:
	// at login, with a new id, and at a save after which the session may live for longer
	// than was listed. A listed session keeps the label of its login. The default is no
	// label.
	Label func(*sessions.Session) string

	// MaxPerOwner is how many sessions of one name an owner may have; a login beyond
	// that ends the oldest one. The default is 100, and the most 5,000.
	MaxPerOwner int

	// HashIDs gives new sessions, and those that get a new id, ids that begin with
	// "h.", of which the services get a hash only: nobody who can read keys and values
	// in them, or their logs, can tell an id. Sessions under plain ids live until they
	// end or get a new id, whatever HashIDs says, and so do the others, as long as all
	// instances have this version: set it once they have. Off by default.
	HashIDs bool

	// ErrorHandler answers a request whose session Handler could not save before the
	// header left, in place of the app. It gets the error of Save, and is the one to
	// report it. The default logs it and answers 503, or 500 for ErrValueTooBig,
	// ErrHeaderSent and an error of the serializer, or 409 for ErrRemoved.
	ErrorHandler func(w http.ResponseWriter, r *http.Request, err error)

	// Trace is told what the store does, for metrics and logs; nil, the default:
	// nobody is.
	Trace *tier.Trace

	// Logger gets the errors that no method returns, at error level and with a
	// stack trace as attribute "stack". If the environment variable
	// SessionCascadeDisplayLogging is true, it also gets the errors that are
	// returned, and at debug level each step and each forged cookie. Session ids are
	// never written, only a short hash of them.
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
// were signed before; see securecookie.CodecsFromPairs. The signatures have no
// age: the services know when a session ends.
//
// A shorter authentication key works, as it did with the original package, but
// may be guessed by somebody who has a cookie. NewCascadeStore logs a warning
// once, and StrictErr returns it as an error. To change the key without logging
// anybody out, put a new pair in front and keep the old one behind it for as long
// as sessions live.
//
// NewCascadeStore also reads the environment variables CkDoDisplayLogging and
// CkMaxMemcacheSessionSizeBytes. If one of them is invalid, a key cannot be used
// or none is given, or no backend is chosen, the store cannot be used: the error
// is logged, and every method that returns an error returns it. Err does, too:
// call it at startup.
func NewCascadeStore(backendTypes int, keyPairs ...[]byte) *CascadeStore {
	env, err := readEnvironment()
	if backendTypes&AllBackends == 0 || backendTypes&^AllBackends != 0 {
		err = errors.Join(err, errNoBackend)
	}
	codecs := securecookie.CodecsFromPairs(keyPairs...)
	err = errors.Join(err, checkKeys(keyPairs, codecs))
	for _, codec := range codecs {
		if c, ok := codec.(*securecookie.SecureCookie); ok {
			c.MaxAge(0)
		}
	}
	cs := &CascadeStore{
		backendTypes:  backendTypes,
		maxLength:     MaxValueLength,
		keyPrefix:     DefaultKeyPrefix,
		serializer:    GobSerializer{},
		env:           env,
		weakKey:       weakKey(keyPairs),
		Codecs:        codecs,
		Options:       defaultOptions(),
		DefaultMaxAge: DefaultMaxAgeSeconds,
	}
	if err != nil {
		cs.fail(err)
	} else if cs.weakKey != nil {
		cs.logs().to().Warn("session store: "+cs.weakKey.Error(),
			"remedy", "put a new key pair in front of this one, and keep this one behind it for as long as sessions live")
	}
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
		if len(keyPairs[i]) == 0 {
			err = errors.Join(err, errNoKeys)
		}
	}
	for _, codec := range codecs {
		if _, cerr := codec.Encode("key", "pair"); cerr != nil {
			err = errors.Join(err, fmt.Errorf("key pair: %w", cerr))
		}
	}
	return err
}

// weakKey says that the key which signs new cookies is short.
func weakKey(keyPairs [][]byte) error {
	if len(keyPairs) == 0 || len(keyPairs[0]) >= minKeyLength {
		return nil
	}
	return fmt.Errorf("%w: it has %d bytes, and should have at least %d", errShortKey, len(keyPairs[0]), minKeyLength)
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

// defaultOptions are those of a session of which the app has said nothing.
func (cs *CascadeStore) defaultOptions() *sessions.Options {
	if cs.Options != nil {
		return cs.Options
	}
	return defaultOptions()
}

func defaultOptions() *sessions.Options {
	return &sessions.Options{Path: "/", MaxAge: DefaultExpireSeconds}
}

// Err returns why the store cannot be used, or nil.
func (cs *CascadeStore) Err() error {
	if cs.err == nil && cs.serializer == nil {
		return trace(constructionError{errNotMade})
	}
	if err := cs.checkOwners(); err != nil && cs.err == nil {
		return trace(constructionError{err})
	}
	return cs.err
}

// StrictErr is Err for new apps: it also returns an error when the key that signs
// new cookies is shorter than 32 bytes.
func (cs *CascadeStore) StrictErr() error {
	if err := cs.Err(); err != nil || cs.weakKey == nil {
		return err
	}
	return trace(constructionError{cs.weakKey})
}

// SetMaxLength sets how many bytes a serialized session may have; 0 means that
// only the limits of the services apply, about 895 KiB. Save returns ErrValueTooBig
// for a session that is longer, and longer than it was when it was loaded. It does
// not refuse what the changes of several requests come to together, nor a session
// that gets a new id. A negative l is ignored. The default is MaxValueLength. The
// cookie contains the id only, so the limit does not concern it.
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

// SetMaxAge sets how many seconds a session lives after it was saved last, in
// the services and in the browser, unless the app has chosen another
// Options.MaxAge for it. A session keeps what was chosen for it. The default is
// DefaultExpireSeconds; 0 means that the cookie ends with the browser's session,
// and the services go by DefaultMaxAge.
//
// A lower MaxAge counts for existing sessions at once: one that was not saved for
// so long has ended. A higher one counts for those that are saved from then on.
//
// To remove a session set its own Options.MaxAge to -1 and save it.
func (cs *CascadeStore) SetMaxAge(v int) {
	if cs.Options == nil {
		cs.Options = defaultOptions()
	}
	cs.Options.MaxAge = v
}

func (cs *CascadeStore) logs() logs { return logs{cs.Logger, cs.env.displayLogging} }
