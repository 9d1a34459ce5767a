package cloudlog

import (
	"context"
	"fmt"
)

// Error logs an error of a session store, with more attributes.
func Error(ctx context.Context, err error, attrs ...any) {
	Default().ErrorContext(ctx, "session store", append([]any{"error", err}, attrs...)...)
}

// Hand hands an error to the app's OnError. If that panics, log gets both: in the
// background nobody else would, and the instance would end.
func Hand(ctx context.Context, err error, onError, log func(ctx context.Context, err error)) {
	defer func() {
		if p := recover(); p != nil {
			log(ctx, err)
			log(ctx, fmt.Errorf("OnError: panic: %v", p))
		}
	}()
	onError(ctx, err)
}
