package live

import (
	"errors"
	"testing"
)

func TestTheAppsOwnerMayPanic(t *testing.T) {
	decode := func(value []byte) (string, error) { return string(value), nil }
	if got, err := Ask(func(s string) string { return "of " + s }, decode)([]byte("session")); got != "of session" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := Ask(func(string) string { panic("oh") }, decode)([]byte("session")); got != "" || !errors.Is(err, ErrOwnerFunc) {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestOwnersNeedABackupAndALimitThatFits(t *testing.T) {
	for _, test := range []struct {
		hasBackup bool
		perOwner  int
		ok        bool
	}{{true, 0, true}, {true, maxPerOwner, true}, {false, 0, false}, {true, -1, false}, {true, maxPerOwner + 1, false}} {
		if err := CheckOwners(test.hasBackup, test.perOwner); (err == nil) != test.ok {
			t.Errorf("%+v: got %v", test, err)
		}
	}
}
