package cascadestore

import (
	"context"
	"errors"
	"log/slog"

	"github.com/gaesession/gaesession/internal/cloudlog"
	"github.com/gaesession/gaesession/tier"
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
// step is logged. A cookie that was forged is no error of the app: visitors can
// send as many as they like.
func (l logs) returned(ctx context.Context, err error) error {
	err = trace(err)
	var forged cookieError
	switch {
	case !l.steps:
	case errors.As(err, &forged) && forged.IsDecode():
		l.to().DebugContext(ctx, "session store: cookie", "error", forged.MultiError)
	default:
		l.fail(ctx, err)
	}
	return err
}

// step logs one step, done with the session of that id.
func (l logs) step(ctx context.Context, step, id string, attrs ...any) {
	if l.steps {
		l.to().DebugContext(ctx, "session store: "+step, append([]any{"session", hash(id)}, attrs...)...)
	}
}

// trace returns a trace that logs each call of the services, if every step is
// logged, and tells another one.
func (l logs) trace(other *tier.Trace) *tier.Trace {
	if !l.steps {
		return other
	}
	var t tier.Trace
	if other != nil {
		t = *other
	}
	told := t.Call
	t.Call = func(ctx context.Context, c tier.Call) {
		l.to().DebugContext(ctx, "session store: "+c.Service+" "+c.Operation,
			"session", c.Session, "outcome", c.Outcome, "duration", c.Duration, "error", c.Err)
		if told != nil {
			told(ctx, c)
		}
	}
	return &t
}
