package cascadestore_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/gorilla/securecookie"
	"github.com/gorilla/sessions"

	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

// Errors and their stack traces.

// tracedErrors returns errors of every method, by what went wrong, with the
// sentinels they are to be, and the ids of all sessions.
func tracedErrors(t *testing.T) (errs map[string]error, is map[string]error, ids []string) {
	a := newApp(t, gaetest.Local(t), cascadestore.DistributedBackends)
	b := a.login(t, values{"n": 0})
	id := idIn(t, a, b.cookie())
	errs, is = map[string]error{}, map[string]error{}
	note := func(what string, err, sentinel error) { errs[what], is[what] = err, sentinel }

	telling := fmt.Errorf("no such key: session.%s: %w", id, gaetest.ErrFailed)
	_, err := b.read(gaetest.Hook{Before: func(context.Context, gaetest.Call) error { return telling }})
	note("Get, services down", err, gaetest.ErrFailed)
	note("Save, Datastore down", b.change(values{"n": 1}, gaetest.Fail(gaetest.Datastore)), gaetest.ErrFailed)
	note("Save, too big", b.change(values{"big": text(5000)}), cascadestore.ErrValueTooBig)
	note("Save, a channel", b.change(values{"channel": make(chan int)}), nil)
	b.Visit(func(w http.ResponseWriter, r *http.Request) {
		b.with(r, func(s *sessions.Session) error {
			b.clone().mustLogout(t)
			s.Values["n"] = 2
			note("Save, removed", s.Save(r, w), cascadestore.ErrRemoved)
			note("RegenerateID, removed", a.store.RegenerateID(r, s), cascadestore.ErrRemoved)
			return nil
		})
	})
	r := newRequest(a.Service)
	note("Save, nil", a.store.Save(r, httptest.NewRecorder(), nil), nil)
	note("RegenerateID, nil", a.store.RegenerateID(r, nil), nil)
	r = newRequest(a.Service, &http.Cookie{Name: sessionName, Value: forgedCookie(sessionName)})
	_, err = a.store.New(r, sessionName)
	note("New, forged cookie", err, securecookie.ErrMacInvalid)
	captureDefaultLog(t)
	unusable := cascadestore.NewCascadeStore(0, hashKey)
	note("Err", unusable.Err(), nil)
	_, err = unusable.New(r, sessionName)
	note("New, unusable store", err, nil)
	return errs, is, []string{id}
}

func TestAReturnedErrorShowsWhereItCameFrom(t *testing.T) {
	errs, is, ids := tracedErrors(t)
	for what, err := range errs {
		var traced *cascadestore.Error
		if !errors.As(err, &traced) {
			t.Errorf("%s: got a %T, %v; want an Error", what, err, err)
			continue
		}
		if want := is[what]; want != nil && !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", what, err, want)
		}
		detailed := fmt.Sprintf("%+v", err)
		if !strings.HasPrefix(detailed, err.Error()+"\n") {
			t.Errorf("%s: %%+v does not begin with the error's text: %s", what, detailed)
		}
		// It names the method of this package first, and the test that called it.
		_, trace, _ := strings.Cut(detailed, err.Error()+"\n")
		if first, _, _ := strings.Cut(trace, "\n"); !strings.Contains(first, "cascadestore.") || strings.Contains(first, "trace") ||
			strings.Contains(first, "describe") {
			t.Errorf("%s: the trace begins in %s", what, first)
		}
		if !strings.Contains(trace, "cascadestore_test") || !strings.Contains(trace, "_test.go:") {
			t.Errorf("%s: the trace does not lead to the test:\n%s", what, trace)
		}
		f, _ := runtime.CallersFrames(traced.StackTrace()).Next()
		if !strings.HasPrefix(trace, f.Function+"\n") {
			t.Errorf("%s: StackTrace begins in %s, and %%+v is\n%s", what, f.Function, trace)
		}
		for _, id := range ids {
			if strings.Contains(detailed, id) || strings.Contains(fmt.Sprintf("%#v", err), id) {
				t.Errorf("%s: the error contains the session's id", what)
			}
		}
	}
}

func TestOtherVerbsShowAnErrorsTextAlone(t *testing.T) {
	errs, _, _ := tracedErrors(t)
	for what, err := range errs {
		for format, want := range map[string]string{"%v": err.Error(), "%s": err.Error(), "%q": fmt.Sprintf("%q", err.Error())} {
			if got := fmt.Sprintf(format, err); got != want {
				t.Errorf("%s: %s gives %s, want %s", what, format, got, want)
			}
		}
	}
}
