package gae

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/appengine/v2"
	"google.golang.org/appengine/v2/datastore"

	"github.com/gaesession/gaesession/internal/cloudlog"
	"github.com/gaesession/gaesession/internal/retry"
	"github.com/gaesession/gaesession/tier"
)

const (
	// purgeTime stays below the 10 minutes a cron job may take on App Engine
	// with automatic scaling.
	// https://cloud.google.com/appengine/docs/standard/go/scheduling-jobs-with-cron-yaml
	purgeTime = 8 * time.Minute
	// purgeBatch is how many entities one call may delete.
	// https://cloud.google.com/datastore/docs/concepts/limits
	purgeBatch = 500
	// purgePage is how many keys one query asks for. Datastore may answer with
	// fewer at a time (300, Google's local server), and the rest of a page then
	// takes a call of its own; so pages are longer than batches.
	purgePage = 3 * purgeBatch
	// purgeDeletes is how many calls delete at once.
	purgeDeletes = 4
	purgeRetries = 3
)

// Purged is what a purge did.
type Purged struct {
	Completed bool `json:"completed"` // false: stopped early, more may be left
	Deleted   int  `json:"deleted"`
}

// PurgeExpired deletes the entities of a kind whose indexed time property lies
// more than five minutes back, [tier.PurgeGrace]. It stops early, and without an error, after
// eight minutes or when ctx is done. What was deleted before an error is
// counted.
func PurgeExpired(ctx context.Context, kind, property string) (Purged, error) {
	ctx, stop := context.WithTimeout(ctx, purgeTime)
	defer stop()
	working, fail := context.WithCancel(ctx) // until a delete has failed
	defer fail()
	var (
		query   = datastore.NewQuery(kind).Filter(property+" <", time.Now().Add(-tier.PurgeGrace)).KeysOnly().Limit(purgePage)
		done    Purged
		deleted atomic.Int64
		deletes errgroup.Group
		err     error
	)
	deletes.SetLimit(purgeDeletes)
	for working.Err() == nil {
		var keys []*datastore.Key
		if keys, query, err = nextPage(working, query); err != nil {
			break
		}
		for batch := range slices.Chunk(keys, purgeBatch) {
			deletes.Go(func() error {
				if working.Err() != nil {
					return nil
				}
				_, err := retry.Do(ctx, purgeRetries, func() (struct{}, error) {
					return struct{}{}, deleteAll(ctx, batch)
				})
				if err != nil {
					fail()
					return fmt.Errorf("delete expired sessions: %w", err)
				}
				deleted.Add(int64(len(batch)))
				return nil
			})
		}
		if len(keys) < purgePage {
			done.Completed = true
			break
		}
	}
	// A failed delete ends the query, too: its error is the one to tell.
	if derr := deletes.Wait(); derr != nil {
		err = derr
	}
	done.Deleted = int(deleted.Load())
	if ctx.Err() != nil {
		err, done.Completed = nil, false // stopped early
	}
	if err != nil {
		done.Completed = false
	}
	return done, err
}

func deleteAll(ctx context.Context, keys []*datastore.Key) (err error) {
	defer recoverNoAppID(&err)
	return classify(datastore.DeleteMulti(ctx, keys))
}

// nextPage returns the keys of one page, and the query for the page after it.
func nextPage(ctx context.Context, q *datastore.Query) (keys []*datastore.Key, next *datastore.Query, err error) {
	defer recoverNoAppID(&err)
	type page struct {
		keys []*datastore.Key
		next datastore.Cursor
	}
	p, err := retry.Do(ctx, purgeRetries, func() (p page, err error) {
		it := q.Run(ctx)
		for {
			key, err := it.Next(nil)
			if errors.Is(err, datastore.Done) {
				break
			}
			if err != nil {
				return p, classify(err)
			}
			p.keys = append(p.keys, key)
		}
		if len(p.keys) == purgePage {
			p.next, err = it.Cursor()
		}
		return p, classify(err)
	})
	if err != nil {
		return nil, nil, fmt.Errorf("query expired sessions: %w", err)
	}
	if len(p.keys) == purgePage {
		q = q.Start(p.next)
	}
	return p.keys, q, nil
}

// PurgeHandler serves purge to App Engine's cron.
func PurgeHandler(purge func(context.Context) (Purged, error)) http.HandlerFunc {
	type answer struct {
		Purged
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
		done, err := purge(appengine.NewContext(r))
		if err != nil {
			cloudlog.Default().ErrorContext(r.Context(), "gaesession: purge expired sessions", "error", err)
			reply(http.StatusInternalServerError, answer{done, "purge failed, see the log"})
			return
		}
		reply(http.StatusOK, answer{Purged: done})
	}
}
