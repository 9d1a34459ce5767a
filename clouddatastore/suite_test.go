package clouddatastore_test

import (
	"testing"

	"github.com/gaesession/gaesession/internal/verify/emulators"
	"github.com/gaesession/gaesession/tier"
	"github.com/gaesession/gaesession/tier/tiertest"
)

func TestBackup(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		if testing.Short() && d.Database != emulators.Firestore {
			t.Skip("in a short run on one emulator")
		}
		b := open(t, d, inNewNamespace())
		tiertest.TestBackup(t, func(*testing.T) tier.Backup { return b })
	})
}

func TestAppEnginesDatastoreKeepsTheContractHere(t *testing.T) {
	appEngine(t, "s~"+project)
	n := names{namespace: newNamespace(), kind: "sess_", value: "val", expires: "exp"}
	tiertest.TestBackup(t, func(*testing.T) tier.Backup { return n.appEngine() })
}
