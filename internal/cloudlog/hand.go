package cloudlog

import (
	"context"
	"fmt"
)

// Error logs an error of a session store.
func Error(ctx context.Context, err error) {
	Default().ErrorContext(ctx, "session store", "error", err)
}

// Hand hands an error to the app's OnError, or to log if the app has set none. If
// OnError panics, log gets both: in the background nobody else would, and the
// instance would end.
func Hand(ctx context.Context, err error, onError, log func(ctx context.Context, err error)) {
	if onError == nil {
		log(ctx, err)
		return
	}
	defer func() {
		if p := recover(); p != nil {
			log(ctx, err)
			log(ctx, fmt.Errorf("OnError: panic: %v", p))
		}
	}()
	onError(ctx, err)
}
