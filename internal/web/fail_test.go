package web

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gaesession/gaesession/tier"
)

func TestTheStatusSaysWhoseFaultItIsThatASessionWasNotSaved(t *testing.T) {
	fault := errors.New("cannot encode")
	for err, want := range map[error]int{
		tier.ErrNotSaved:    503,
		tier.ErrUnavailable: 503,
		errHook:             503,
		tier.ErrTooLarge:    500,
		ErrHeaderSent:       500,
		fault:               500,
		tier.ErrRemoved:     409,
	} {
		w := httptest.NewRecorder()
		Fail(w, fmt.Errorf("save: %w", err), fault)
		if w.Code != want || w.Body.String() != "The session could not be saved.\n" {
			t.Errorf("%v: got %d, %q; want %d", err, w.Code, w.Body, want)
		}
	}
}

func TestFinishRunsWhenTheHandlerReturnsAndNotAfterAPanic(t *testing.T) {
	for name, test := range map[string]struct {
		fail error
		app  http.HandlerFunc
		want int32
	}{
		"sent nothing":   {nil, func(http.ResponseWriter, *http.Request) {}, 1},
		"sent something": {nil, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200) }, 1},
		"replaced":       {errHook, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200) }, 1},
		"panic":          {nil, func(http.ResponseWriter, *http.Request) { panic("oops") }, 0},
		"late panic":     {nil, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200); panic("oops") }, 0},
	} {
		m := manager{fail: test.fail}
		func() {
			defer func() { _ = recover() }()
			m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer func() {
					if m.finished.Load() > 0 {
						t.Errorf("%s: it has run before the handler returned", name)
					}
				}()
				test.app(w, r)
			})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
		}()
		if got := m.finished.Load(); got != test.want {
			t.Errorf("%s: it ran %d times, want %d", name, got, test.want)
		}
	}
}

func TestARequestWithoutAHookIsAnsweredWith500(t *testing.T) {
	h := Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the app was called") }),
		new(int), func(*http.Request) Hook { return nil })
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if w.Code != 500 {
		t.Errorf("got status %d", w.Code)
	}
}
