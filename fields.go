package gaesession

import (
	"errors"
	"reflect"
	"sync"
	"time"

	"github.com/icza/session"
)

// The sessions of icza/session can be read through their interface, but not given
// another id, nor read under a lock that is held. For that their fields are found
// by name.

var (
	sessionType   = reflect.TypeOf(session.NewSession())
	idField       = fieldNamed[string]("IDF")
	accessedField = fieldNamed[time.Time]("AccessedF")
	attrsField    = fieldNamed[map[string]any]("AttrsF")
)

var errFields = errors.New("not a session that session.NewSession of github.com/icza/session v1 made")

// fieldNamed returns the index of a field of icza/session's sessions; -1: there is
// no such field.
func fieldNamed[T any](name string) int {
	f, ok := sessionType.Elem().FieldByName(name)
	if !ok || f.Type != reflect.TypeFor[T]() {
		return -1
	}
	return f.Index[0]
}

// field returns a field of a session; ok is false if the session is not
// icza/session's, or has no such field.
func field[T any](sess session.Session, index int) (f *T, ok bool) {
	if index < 0 || reflect.TypeOf(sess) != sessionType {
		return nil, false
	}
	f, ok = reflect.ValueOf(sess).Elem().Field(index).Addr().Interface().(*T)
	return f, ok
}

// setID gives a session another id that nobody else uses yet.
func setID(sess session.Session, id string) error {
	f, ok := field[string](sess, idField)
	if !ok {
		return errFields
	}
	*f = id
	return nil
}

// withID returns the session with that id: itself, or a copy that shares its
// attributes and its mutex, which must be held.
func withID(sess session.Session, id string) (session.Session, error) {
	if sess.ID() == id {
		return sess, nil
	}
	if reflect.TypeOf(sess) != sessionType {
		return nil, errFields
	}
	other := reflect.New(sessionType.Elem())
	other.Elem().Set(reflect.ValueOf(sess).Elem())
	renamed, _ := other.Interface().(session.Session)
	return renamed, setID(renamed, id)
}

// accessed returns when a session was used last.
func accessed(sess session.Session) (time.Time, error) {
	if err := hold(sess.Mutex()); err != nil {
		return time.Time{}, err
	}
	f, ok := field[time.Time](sess, accessedField)
	var at time.Time
	if ok {
		at = *f
	}
	sess.Mutex().RUnlock()
	if !ok {
		at = sess.Accessed()
	}
	return at, nil
}

// holdTime is how long a save waits for a session's mutex.
const holdTime = time.Second

var errHeld = errors.New("the session's Mutex was held for a second while it was to be saved")

// hold locks a session's mutex for reading. It does not wait for ever, since who
// holds the mutex may be waiting for the save.
func hold(mu *sync.RWMutex) error {
	if mu.TryRLock() {
		return nil
	}
	for until := time.Now().Add(holdTime); time.Now().Before(until); {
		time.Sleep(time.Millisecond)
		if mu.TryRLock() {
			return nil
		}
	}
	return errHeld
}

// A named session is one of icza/session whose id may change while the app uses
// it.
type named struct {
	session.Session
	mu sync.Mutex
	id string
}

func newNamed(sess session.Session, id string) *named {
	return &named{Session: unwrap(sess), id: id}
}

// ID implements session.Session.
func (n *named) ID() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.id
}

func (n *named) setID(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.id = id
}

// unwrap returns icza/session's session.
func unwrap(sess session.Session) session.Session {
	if n, ok := sess.(*named); ok {
		return n.Session
	}
	return sess
}
