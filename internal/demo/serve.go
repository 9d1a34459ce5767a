package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// shutdownTime is what requests and background saves under way get when the
// process is told to stop. App Engine kills it after three seconds.
// https://cloud.google.com/appengine/docs/standard/how-instances-are-managed#shutdown
const shutdownTime = 2500 * time.Millisecond

// Serve serves h at l until ctx is done. Requests that have begun by then are
// finished, and so are the saves they left behind, which drain waits for.
func Serve(ctx context.Context, l net.Listener, h http.Handler, drain func(context.Context) error) error {
	var silent silentConns
	server := &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, ConnState: silent.connState,
	}
	server.RegisterOnShutdown(silent.close)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer cancel()
	err := server.Shutdown(deadline)
	if err != nil {
		err = fmt.Errorf("end the requests under way: %w", errors.Join(err, server.Close()))
	}
	<-served
	if drain != nil {
		if drainErr := drain(deadline); drainErr != nil {
			err = errors.Join(err, fmt.Errorf("end the saves under way: %w", drainErr))
		}
	}
	return err
}
