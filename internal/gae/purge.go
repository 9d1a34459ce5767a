package gae

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"google.golang.org/appengine/v2"
	"google.golang.org/appengine/v2/datastore"

	"github.com/gaesession/gaesession/internal/cloudlog"
	"github.com/gaesession/gaesession/tier"
)

const (
	// purgePage is how many keys one query asks for. Datastore may answer with
	// fewer at a time (300, Google's local server), and the rest of a page then
	// takes a call of its own; so pages are longer than what one call deletes.
	purgePage = 1500

	// purgeCallTime is how long a query for a page, or a delete, may take. The
	// appengine package has the same limit for a call, but not where the context
	// has a deadline.
	purgeCallTime = time.Minute
)

// PurgeExpired deletes the entities of a kind, in the namespace of ctx, whose
// indexed time property lies more than five minutes back, [tier.PurgeGrace]. It
// ends as [tier.Purge] says. A nil ctx has no end and is in the default
// namespace.
func PurgeExpired(ctx context.Context, kind, property string) (tier.Purged, error) {
	if ctx == nil {
		ctx = context.Background()
	}
	e := newExpired(kind, property)
	e.namespaces = []string{Namespace(ctx)}
	return tier.Purge(ctx, e.find, e.remove)
}

// PurgeNamespaces is PurgeExpired for every namespace of the app, one after the
// other, in the time of one.
func PurgeNamespaces(ctx context.Context, kind, property string) (tier.Purged, error) {
	e := newExpired(kind, property)
	return tier.Purge(ctx, e.find, e.remove)
}

// expired finds and deletes expired entities.
type expired struct {
	property   string
	then       time.Time        // what expired before is deleted
	namespaces []string         // still to be searched; nil: not known yet
	first      *datastore.Query // for each of them
	next       *datastore.Query // for the first of them
}

func newExpired(kind, property string) *expired {
	then := time.Now().Add(-tier.PurgeGrace)
	q := datastore.NewQuery(kind).Filter(property+" <", then).KeysOnly().Limit(purgePage)
	return &expired{property: property, then: then, first: q, next: q}
}

func (e *expired) find(ctx context.Context) (keys []*datastore.Key, last bool, err error) {
	defer recoverNoAppID(&err)
	ctx, end, err := beginPurgeCall(ctx)
	if err != nil {
		return nil, false, err
	}
	defer end()
	namespace := ""
	if e.namespaces != nil {
		namespace = e.namespaces[0]
	}
	if ctx, err = appengine.Namespace(ctx, namespace); err != nil {
		return nil, false, fmt.Errorf("query expired sessions: %w", err)
	}
	if e.namespaces == nil {
		if e.namespaces, err = datastore.Namespaces(ctx); err != nil {
			return nil, false, fmt.Errorf("query namespaces: %w", classify(err))
		}
		return nil, len(e.namespaces) == 0, nil
	}
	it := e.next.Run(ctx)
	for {
		key, err := it.Next(nil)
		if errors.Is(err, datastore.Done) {
			break
		}
		if err != nil {
			return nil, false, fmt.Errorf("query expired sessions: %w", classify(err))
		}
		keys = append(keys, key)
	}
	if len(keys) < purgePage {
		e.namespaces, e.next = e.namespaces[1:], e.first
		return keys, len(e.namespaces) == 0, nil
	}
	cursor, err := it.Cursor()
	if err != nil {
		return nil, false, fmt.Errorf("query expired sessions: %w", classify(err))
	}
	e.next = e.next.Start(cursor)
	return keys, false, nil
}

func (e *expired) remove(ctx context.Context, keys []*datastore.Key) (err error) {
	defer recoverNoAppID(&err)
	ctx, end, err := beginPurgeCall(ctx)
	if err != nil {
		return err
	}
	defer end()
	var plain, indexes []*datastore.Key
	for _, k := range keys {
		if strings.Contains(k.StringID(), tier.OwnerPrefix) {
			indexes = append(indexes, k)
		} else {
			plain = append(plain, k)
		}
	}
	err = datastore.DeleteMulti(ctx, plain)
	for batch := range slices.Chunk(indexes, maxGroups) {
		if err == nil {
			//rule: purge-index
			err = e.removeStill(ctx, batch)
		}
	}
	if err != nil {
		return fmt.Errorf("delete expired sessions: %w", classify(err))
	}
	return nil
}

// maxGroups is how many entity groups a transaction may have.
// https://cloud.google.com/datastore/docs/concepts/limits
const maxGroups = 25

// removeStill deletes those entities that still are expired.
func (e *expired) removeStill(ctx context.Context, keys []*datastore.Key) error {
	return datastore.RunInTransaction(ctx, func(ctx context.Context) error {
		entities := make([]datastore.PropertyList, len(keys))
		err := datastore.GetMulti(ctx, keys, entities)
		var errs appengine.MultiError
		if err != nil && !errors.As(err, &errs) {
			return err
		}
		var still []*datastore.Key
		for i, properties := range entities {
			if errs != nil && errs[i] != nil {
				if !errors.Is(errs[i], datastore.ErrNoSuchEntity) {
					return errs[i]
				}
				continue
			}
			for _, p := range properties {
				if at, ok := p.Value.(time.Time); ok && p.Name == e.property && at.Before(e.then) {
					still = append(still, keys[i])
				}
			}
		}
		return datastore.DeleteMulti(ctx, still)
	}, &datastore.TransactionOptions{XG: true})
}

// beginPurgeCall waits for a place for a call, and returns the context of that.
func beginPurgeCall(ctx context.Context) (_ context.Context, end func(), err error) {
	ctx, stop := context.WithTimeout(ctx, purgeCallTime)
	if err := takeDatastore(ctx, 1); err != nil {
		stop()
		return nil, nil, err
	}
	return ctx, func() { releaseDatastore(1); stop() }, nil
}

// PurgeHandler serves PurgeNamespaces to App Engine's cron.
func PurgeHandler(kind, property string) http.HandlerFunc {
	type answer struct {
		tier.Purged
		Error string `json:"error,omitempty"`
	}
	return func(w http.ResponseWriter, r *http.Request) {
		reply := func(status int, a any) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			if err := json.NewEncoder(w).Encode(a); err != nil {
				cloudlog.Default().ErrorContext(r.Context(), "gaesession: answer purge request", "error", err)
			}
		}
		type refusal struct {
			Error string `json:"error"`
		}
		switch {
		case r.Method != http.MethodGet && r.Method != http.MethodPost:
			w.Header().Set("Allow", "GET, POST")
			reply(http.StatusMethodNotAllowed, refusal{"only GET and POST"})
			return
		case appengine.IsAppEngine() && r.Header.Get("X-Appengine-Cron") != "true":
			// App Engine removes this header from requests that come from outside.
			// https://cloud.google.com/appengine/docs/standard/go/scheduling-jobs-with-cron-yaml#securing_urls_for_cron
			reply(http.StatusForbidden, refusal{"only for App Engine's cron"})
			return
		}
		done, err := PurgeNamespaces(appengine.NewContext(r), kind, property)
		if err != nil {
			cloudlog.Default().ErrorContext(r.Context(), "gaesession: purge expired sessions", "error", err)
			reply(http.StatusInternalServerError, answer{done, "purge failed, see the log"})
			return
		}
		reply(http.StatusOK, answer{Purged: done})
	}
}
