//go:build go1.25

package interleave

import (
	"context"
	"slices"

	"github.com/gaesession/gaesession/tier"
)

// A Database is a service of backups that schedules can run on instead of App
// Engine's Datastore. What its Instances do goes to it in calls of [Do].
type Database interface {
	// Open returns a Backup on an instance of its own.
	Open(Kept) (Instance, error)

	// Get and Put are not noticed by anybody. A nil record is one that is not
	// there, and Token is its version.
	Get(k Kept, id string) *tier.Record
	Put(k Kept, id string, r *tier.Record)

	// Before are the transactions that a call has to wait for, and Locks says which
	// locks there are, for all that it matters to calls that follow.
	Before(*Call) []string
	Locks() string

	// Reset forgets everything.
	Reset()
}

// An Instance is a Backup of one instance.
type Instance interface {
	tier.Backup
	Purge(context.Context) error
	Close() error
}

// Kept says where a store keeps a session: the kind of its entity and the names
// of its properties, and what comes before its id in the keys of entity and item.
type Kept struct{ Kind, Value, Expires, Prefix string }

// A Call of a Database.
type Call struct {
	// Name of the call in a trace: ds-get, ds-put, ds-swap for a write that is
	// conditional on a version, ds-delete, begin, txn-get, commit, rollback, or
	// query.
	Name string

	IDs    []string // of the sessions; none: it is not about any
	Keys   []string // of the records, for the Database
	Values [][]byte // that it writes

	// A call that others' transactions have locked out waits until they have ended:
	// see Database. But a commit is made all the same when what it waits for has
	// a commit to be made, too; then it has to fail.
	Transaction string // that it is part of; empty: none
	Unlocks     bool   // others may wait for it

	Perform func() error // makes it
	Failure error        // what it answers when it is made to fail
}

// Do makes a call, when the explorer lets it.
func Do(ctx context.Context, to Call) error {
	h, ok := ctx.Value(holderKey{}).(holder)
	if !ok {
		return to.Perform() // while it is opened
	}
	w := worldOf(h)
	c := &call{ctx: ctx, service: inBackup, name: to.Name, ids: to.IDs, values: to.Values, perform: to.Perform, failure: to.Failure}
	c.to = &to
	switch c.name {
	case "query":
		c.answer = func() []token { return w.recordTokensOf(w.ids()) }
	case "ds-get", "txn-get", "ds-swap", "commit":
		c.answer = func() []token { return w.recordTokensOf(c.ids) }
	}
	return h.hold(c)
}

// isLocked reports whether a call waits for a transaction that goes on.
func (w *world) isLocked(c *call) bool {
	if c.to == nil || c.ctx.Err() != nil {
		return false
	}
	return slices.ContainsFunc(w.database.Before(c.to), func(other string) bool {
		return c.name != "commit" || !slices.ContainsFunc(w.live(), func(p *call) bool {
			return p.name == "commit" && p.to.Transaction == other
		})
	})
}

func worldOf(h holder) *world {
	switch h := h.(type) {
	case *actor:
		return h.w
	case *request:
		return h.w
	}
	panic("interleave: a call of nobody")
}

// records are a database as the explorer sees it.
type records struct {
	Database
	kept Kept
}

func (r records) record(id string) *record {
	if there := r.Get(r.kept, id); there != nil {
		return &record{there.Value, there.Expires, there.Token}
	}
	return nil
}

func (r records) put(id string, rec *record) {
	if rec == nil {
		r.Put(r.kept, id, nil)
		return
	}
	r.Put(r.kept, id, &tier.Record{Value: rec.value, Expires: rec.expires})
}
