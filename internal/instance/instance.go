// Package instance lets tests run several instances of an app in one process.
package instance

import (
	"context"
	"time"
)

// An Instance is one of several in a process. The zero value is the process
// itself.
type Instance struct {
	// Name tells instances apart: requests share work, and what is known of the
	// services, with those of the same name only. It is comparable.
	Name any
	// Ahead is how far the clock is ahead when a request changes something.
	Ahead time.Duration
	// Steady makes all waits last as long as they do on average, so that a
	// schedule can be repeated.
	Steady bool
	// Over is closed when the instance has died: its background work ends.
	Over <-chan struct{}
}

// IsOver reports whether the instance has died.
func (i Instance) IsOver() bool {
	select {
	case <-i.Over:
		return true
	default:
		return false
	}
}

type key struct{}

// With returns a context for a request on that instance.
func With(ctx context.Context, i Instance) context.Context { return context.WithValue(ctx, key{}, i) }

// Of returns the instance of a request.
func Of(ctx context.Context) Instance {
	i, _ := ctx.Value(key{}).(Instance)
	return i
}

type backgroundKey struct{}

// InBackground returns a context for work that a request has left, which ends when
// ctx does.
func InBackground(ctx context.Context) context.Context {
	return context.WithValue(ctx, backgroundKey{}, ctx)
}

// Background returns the context that ends with the work in the background for
// which a call is made; nil: a request makes the call.
func Background(ctx context.Context) context.Context {
	work, _ := ctx.Value(backgroundKey{}).(context.Context)
	return work
}
