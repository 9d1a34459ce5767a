package bench

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/icza/session"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

func TestMain(m *testing.M) { gaetest.Main(m) }

type options = gaesession.MemcacheStoreOptions

// kind is the kind of the session entities.
const kind = "sess_"

// fourAttrs are the attributes of the benchmarks' sessions.
var fourAttrs = map[string]any{"user": "alice", "email": "alice@example.com", "visits": 1, "level": 7}

// An opener makes the stores of one benchmark, each for one request. finish
// waits for what a store does after Close, and fails tb when something went
// wrong.
type opener func(tb testing.TB, o options) (open func(ctx context.Context) session.Store, finish func())

type namedOpener struct {
	name string
	opener
}

var openers = []namedOpener{{"ours", ours}, {"blind", blind}}

func ours(tb testing.TB, o options) (func(context.Context) session.Store, func()) {
	o.OnError = func(_ context.Context, err error) {
		if !errors.Is(err, gaesession.ErrInvalidID) {
			tb.Error(err)
		}
	}
	// A machine that is busy with a benchmark is no service that does not answer.
	o.CacheTimeout, o.BackupTimeout = time.Minute, time.Minute
	open := func(ctx context.Context) session.Store { return gaesession.NewMemcacheStoreOptions(ctx, &o) }
	return open, func() {
		if o.AsyncDatastoreSave {
			drain(tb)
		}
	}
}

func drain(tb testing.TB) {
	if err := gaesession.Drain(context.Background()); err != nil {
		tb.Error(err)
	}
}

func blind(_ testing.TB, o options) (func(context.Context) session.Store, func()) {
	var late sync.WaitGroup
	return func(ctx context.Context) session.Store { return newBlindStore(ctx, o, &late) }, late.Wait
}

// login saves a session with fourAttrs and returns its id.
func login(tb testing.TB, s *gaetest.Service, o options) string {
	open, finish := ours(tb, o)
	store := open(s.Context())
	sess := session.NewSessionOptions(&session.SessOptions{Attrs: fourAttrs})
	store.Add(sess)
	store.Close()
	finish()
	return sess.ID()
}

func addVisit(s session.Store, id string) { addOne(s, id, "visits") }

func addOne(s session.Store, id, attr string) {
	sess := s.Get(id)
	n, _ := sess.Attr(attr).(int)
	sess.SetAttr(attr, n+1)
}

// sleepLatency sleeps as long as a call takes on the model of App Engine.
var sleepLatency = gaetest.Hook{Before: func(_ context.Context, c gaetest.Call) error {
	time.Sleep(gaetest.AppEngineLatency(c))
	return nil
}}

// countCalls hands every call to count.
func countCalls(count func(ctx context.Context, c gaetest.Call)) gaetest.Hook {
	return gaetest.Hook{Before: func(ctx context.Context, c gaetest.Call) error {
		count(ctx, c)
		return nil
	}}
}

func median[T time.Duration | float64](values []T) T {
	slices.Sort(values)
	return values[len(values)/2]
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }
