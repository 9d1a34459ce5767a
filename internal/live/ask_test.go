package live

import (
	"errors"
	"testing"
)

func TestTheAppIsAskedForALabelOnlyIfTheSessionHasAnOwner(t *testing.T) {
	is := func(text string) func(string) string { return func(string) string { return text } }
	panics := func(string) string { panic("oh") }
	for name, test := range map[string]struct {
		owner, label func(string) string
		wantOwner    string
		wantLabel    string
		fails        bool
	}{
		"both":           {is("ada"), is("phone"), "ada", "phone", false},
		"no owner":       {is(""), panics, "", "", false},
		"no Label":       {is("ada"), nil, "ada", "", false},
		"a panic":        {panics, nil, "", "", true},
		"of Label's own": {is("ada"), panics, "ada", "", true},
	} {
		owner, label, err := AskOwner("session", test.owner, test.label)
		if owner != test.wantOwner || label != test.wantLabel || errors.Is(err, ErrOwnerFunc) != test.fails {
			t.Errorf("%s: got %q, %q, %v", name, owner, label, err)
		}
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
