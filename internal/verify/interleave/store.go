//go:build go1.25

package interleave

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/gaesession/gaesession/tier"
)

// A store is what the explorer and the judge know of a store: how a request uses
// it, and how it keeps a session.
type store interface {
	// visit begins a request. What its methods return or hand to the app's error
	// function goes to returned, what they do no more than log to logged.
	visit(ctx context.Context, t tiers, sc scenario, o op, returned, logged func(error)) visit
	purge(ctx context.Context) error // App Engine's Datastore
	kept() Kept
	decode(value []byte) (stored, error)
}

// A visit is a request that uses a store, for one session.
type visit interface {
	// create makes a session with the initial attributes. It makes no call.
	create() (id string)
	load(id string) *view
	// act does with the session, if there is one, what the request is to do.
	act(o op, value string)
	// moved is the session's new id, empty while it has none.
	moved() string
	close()
}

// tiers are what a store is given; nil: App Engine's.
type tiers struct {
	cache  tier.Cache
	backup tier.Backup
}

// stored is what of an encoded session can differ between schedules.
type stored struct {
	accessed time.Time // zero: it is not kept
	attrs    map[string]string
	owner    string // that the app says it has, where a store asks
}

func (s scenario) store(br breach) store {
	switch {
	case s.bare:
		return bareStore{}
	case s.of == ofCascade:
		return cascade
	case s.of == ofSCS:
		return scsStore{plain: br.plain}
	case s.of == ofSessions:
		return sessionsStore{ids: &sync.Map{}}
	}
	return gaesessionStore{}
}

// texts are a session's attributes, without the one that says whose it is.
func texts[K comparable, V any](attrs map[K]V) map[string]string {
	all := make(map[string]string, len(attrs))
	for name, value := range attrs {
		all[fmt.Sprint(name)] = fmt.Sprint(value)
	}
	delete(all, ownerAttr)
	return all
}
