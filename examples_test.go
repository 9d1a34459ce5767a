package gaesession_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/icza/session"
	"google.golang.org/appengine/v2"

	"github.com/gaesession/gaesession"
)

func ExampleNewMemcacheStoreOptions() {
	http.HandleFunc("/fast", func(w http.ResponseWriter, r *http.Request) {
		store := gaesession.NewMemcacheStoreOptions(appengine.NewContext(r), &gaesession.MemcacheStoreOptions{
			KeyPrefix:          "session:", // the same wherever these sessions are used
			AsyncDatastoreSave: true,       // Drain has to be called when the instance stops
			OnError: func(ctx context.Context, err error) {
				level := slog.LevelError
				if errors.Is(err, gaesession.ErrRemoved) {
					level = slog.LevelInfo // the user has logged out meanwhile
				}
				slog.Log(ctx, level, "session", "error", err)
			},
		})
		sessions := session.NewCookieManager(store)
		defer sessions.Close()
		// …
	})
}

// App Engine's cron calls the handler; cron.yaml:
//
//	cron:
//	- description: delete expired sessions
//	  url: /purge
//	  schedule: every 30 minutes
func ExamplePurgeExpiredSessFromDSFunc() {
	http.HandleFunc("/purge", gaesession.PurgeExpiredSessFromDSFunc(""))

	w := httptest.NewRecorder()
	http.DefaultServeMux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/purge", nil))
	fmt.Println(w.Code)
	// Output: 200
}

// An app that keeps the ids of a user's sessions can end all of them, when the
// password was changed, say.
func ExampleRemoveID() {
	ctx := context.Background() // on App Engine: appengine.NewContext(r)
	store := gaesession.NewMemcacheStore(ctx)
	sess := session.NewSession()
	store.Add(sess)
	store.Close()

	if err := gaesession.RemoveID(ctx, sess.ID(), nil); err != nil {
		fmt.Println("it may still be there:", err)
	}
	fmt.Println(gaesession.NewMemcacheStore(ctx).Get(sess.ID()))
	// Output: <nil>
}

// App Engine sends SIGTERM and three seconds later kills the instance. An app
// that saves asynchronously waits that long for the saves that are under way.
func ExampleDrain() {
	server := &http.Server{
		Addr:              ":" + os.Getenv("PORT"),
		Handler:           appengine.Middleware(http.DefaultServeMux),
		ReadHeaderTimeout: 10 * time.Second,
	}
	stopped := make(chan error, 1)
	go func() {
		term, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		<-term.Done()
		ctx, cancel := context.WithTimeout(context.Background(), 2500*time.Millisecond)
		defer cancel()
		stopped <- errors.Join(server.Shutdown(ctx), gaesession.Drain(ctx)) // first the requests
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		slog.Error("serve", "error", err)
		os.Exit(1)
	}
	if err := <-stopped; err != nil {
		slog.Error("stop", "error", err)
	}
}
