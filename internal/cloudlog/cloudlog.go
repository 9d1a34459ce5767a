// Package cloudlog gives the errors of the stores a form that Cloud Logging
// takes for entries with a severity, to which alerts can answer.
package cloudlog

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"google.golang.org/appengine/v2"
	"google.golang.org/appengine/v2/log"
)

// Default returns the logger that errors go to when the app has chosen none:
// log/slog's default logger, if the app has set one. Otherwise on App Engine one
// that writes the severity and the trace of the request whose context is given;
// on Cloud Run one that writes the severity.
// https://cloud.google.com/logging/docs/structured-logging
func Default() *slog.Logger {
	standard := slog.Default()
	if fmt.Sprintf("%T", standard.Handler()) != "*slog.defaultHandler" {
		return standard
	}
	switch {
	case appengine.IsStandard():
		return slog.New(&appEngine{})
	case os.Getenv("K_SERVICE") != "":
		return slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{ReplaceAttr: rename}))
	}
	return standard
}

// rename gives the level and the message the names that Cloud Logging knows.
func rename(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 {
		return a
	}
	switch a.Key {
	case slog.LevelKey:
		level, _ := a.Value.Any().(slog.Level)
		return slog.String("severity", severity(level))
	case slog.MessageKey:
		a.Key = "message"
	}
	return a
}

func severity(level slog.Level) string {
	switch {
	case level >= slog.LevelError:
		return "ERROR"
	case level >= slog.LevelWarn:
		return "WARNING"
	case level >= slog.LevelInfo:
		return "INFO"
	}
	return "DEBUG"
}

// appEngine writes through App Engine's log package, which knows the trace of a
// request.
type appEngine struct {
	wrap []func(slog.Handler) slog.Handler // attributes and groups, in order
}

func (h *appEngine) Enabled(_ context.Context, level slog.Level) bool {
	return slog.Default().Enabled(context.Background(), level)
}

func (h *appEngine) Handle(ctx context.Context, r slog.Record) error {
	var b bytes.Buffer
	// What is left out here, App Engine's log adds.
	var text slog.Handler = slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.LevelKey || a.Key == slog.TimeKey || a.Key == slog.MessageKey) {
			return slog.Attr{}
		}
		return a
	}})
	for _, w := range h.wrap {
		text = w(text)
	}
	if err := text.Handle(ctx, r); err != nil {
		return err
	}
	message := strings.TrimSpace(r.Message + ": " + b.String())
	defer func() {
		// The context is of no request: a background save's, say.
		if recover() != nil {
			plain := slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{ReplaceAttr: rename})
			_ = plain.Handle(ctx, slog.NewRecord(r.Time, r.Level, message, 0)) // there is nowhere else to say it
		}
	}()
	write := map[string]func(context.Context, string, ...any){
		"ERROR": log.Errorf, "WARNING": log.Warningf, "INFO": log.Infof, "DEBUG": log.Debugf,
	}[severity(r.Level)]
	write(ctx, "%s", message)
	return nil
}

func (h *appEngine) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.with(func(t slog.Handler) slog.Handler { return t.WithAttrs(attrs) })
}

func (h *appEngine) WithGroup(name string) slog.Handler {
	return h.with(func(t slog.Handler) slog.Handler { return t.WithGroup(name) })
}

func (h *appEngine) with(w func(slog.Handler) slog.Handler) slog.Handler {
	return &appEngine{append(h.wrap[:len(h.wrap):len(h.wrap)], w)}
}
