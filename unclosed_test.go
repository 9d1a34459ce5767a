package gaesession_test

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/icza/session"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

func TestAStoreThatIsDroppedWithoutCloseAfterAddIsReported(t *testing.T) {
	ctx := gaetest.Local(t).Context()
	reports := make(chan error, 10)
	use := func(end func(store session.Store)) {
		store := gaesession.NewMemcacheStoreOptions(ctx, &options{OnError: func(_ context.Context, err error) { reports <- err }})
		store.Add(session.NewSession())
		end(store)
	}
	use(func(store session.Store) { store.Close() })
	use(func(store session.Store) { store.Close(); store.Get(session.NewSession().ID()) })
	use(func(session.Store) {})
	deadline := time.After(30 * time.Second)
	for {
		runtime.GC()
		select {
		case err := <-reports:
			if !errors.Is(err, gaesession.ErrNotSaved) {
				t.Errorf("reported: %v", err)
			}
		case <-deadline:
			t.Fatal("nothing was reported")
		default:
			runtime.Gosched()
			continue
		}
		break
	}
	for range 3 {
		runtime.GC()
	}
	drain(t)
	select {
	case err := <-reports:
		t.Errorf("a store that was closed is reported: %v", err)
	default:
	}
}
