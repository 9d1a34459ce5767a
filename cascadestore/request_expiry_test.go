//go:build go1.25

package cascadestore_test

import (
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gaesession/gaesession/cascadestore"
)

func TestASessionEndsInTheRequestBackendToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore(t, cascadestore.RequestBackend)
		r := httptest.NewRequest("GET", "/", nil)
		s, err := store.New(r, sessionName)
		if err != nil {
			t.Fatal(err)
		}
		s.Options.MaxAge = 100
		if err := s.Save(r, httptest.NewRecorder()); err != nil {
			t.Fatal(err)
		}
		for _, test := range []struct {
			after time.Duration
			found bool
		}{{0, true}, {100 * time.Second, true}, {110 * time.Second, false}} { // a tenth is added
			time.Sleep(test.after)
			got, err := store.New(r, sessionName)
			if err != nil || got.IsNew == test.found {
				t.Errorf("after %v: found %v, %v; want %v", test.after, !got.IsNew, err, test.found)
			}
		}
	})
}
