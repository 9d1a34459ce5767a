package cloudlog

import (
	"context"
	"errors"
	"strings"
	"testing"
)

func TestAnErrorIsLoggedTogetherWithThePanicOfTheAppsFunction(t *testing.T) {
	failed := errors.New("failed")
	for _, panics := range []bool{false, true} {
		var got, logged []error
		Hand(context.Background(), failed, func(_ context.Context, err error) {
			if got = append(got, err); panics {
				panic("oh")
			}
		}, func(_ context.Context, err error) { logged = append(logged, err) })
		if len(got) != 1 || got[0] != failed {
			t.Errorf("the app got %v", got)
		}
		if panics && (len(logged) != 2 || logged[0] != failed || !strings.Contains(logged[1].Error(), "oh")) || !panics && logged != nil {
			t.Errorf("panics: %v, logged %v", panics, logged)
		}
	}
}

func TestAnErrorIsLoggedIfTheAppHasSetNoOnError(t *testing.T) {
	failed := errors.New("failed")
	var logged []error
	Hand(context.Background(), failed, nil, func(_ context.Context, err error) { logged = append(logged, err) })
	if len(logged) != 1 || logged[0] != failed {
		t.Errorf("logged %v", logged)
	}
}
