package cascadestore

import (
	"context"
	"log/slog"
	"runtime/debug"

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
	return slog.Default()
}

// fail logs an error that is not returned.
func (l logs) fail(ctx context.Context, err error) {
	if err != nil {
		l.to().ErrorContext(ctx, "session store", "error", err, "stack", string(debug.Stack()))
	}
}

// returned logs an error that is returned as well, when every step is logged.
func (l logs) returned(ctx context.Context, err error) error {
	if l.steps {
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
