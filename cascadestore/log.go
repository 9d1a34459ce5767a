package cascadestore

import (
	"context"
	"errors"
	"log/slog"

	"github.com/gaesession/gaesession/internal/cloudlog"
	"github.com/gaesession/gaesession/internal/sessionid"
)

// logs is where a store writes.
type logs struct {
	logger *slog.Logger // nil: the default one
	steps  bool         // write every step
}

func (l logs) to() *slog.Logger {
	if l.logger != nil {
		return l.logger
	}
	return cloudlog.Default()
}

// fail logs an error that is not returned.
func (l logs) fail(ctx context.Context, err error) {
	if err != nil {
		var traced *Error
		if !errors.As(err, &traced) {
			traced = traceHere(err)
		}
		l.to().ErrorContext(ctx, "session store", "error", traced.Unwrap(), "stack", traced.stackText())
	}
}

// returned gives an error that is returned a stack trace, and logs it when every
// step is logged.
func (l logs) returned(ctx context.Context, err error) error {
	if err = trace(err); l.steps {
		l.fail(ctx, err)
	}
	return err
}

// step logs one step, done with the session of that id.
func (l logs) step(ctx context.Context, step, id string, attrs ...any) {
	if l.steps {
		l.to().DebugContext(ctx, "session store: "+step, append([]any{"session", sessionid.Hash(id)}, attrs...)...)
	}
}
