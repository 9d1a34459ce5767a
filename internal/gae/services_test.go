package gae_test

import (
	"testing"

	"github.com/gaesession/gaesession/internal/gae"
	"github.com/gaesession/gaesession/tier"
	"github.com/gaesession/gaesession/tier/tiertest"
)

func TestServicesThatTheAppHasNotChosenAreAppEngines(t *testing.T) {
	memcache, own, ownBackup := gae.Memcache{Prefix: "p"}, tiertest.NewCache(), tiertest.NewBackup()
	for name, test := range map[string]struct {
		cache      tier.Cache
		backup     tier.Backup
		wantCache  tier.Cache
		wantBackup tier.Backup
	}{
		"neither":  {nil, nil, memcache, backup},
		"both":     {own, ownBackup, own, ownBackup},
		"no cache": {tier.None, nil, nil, backup},
	} {
		if c, b := gae.Services(test.cache, test.backup, memcache, backup); c != test.wantCache || b != test.wantBackup {
			t.Errorf("%s: got %v, %v", name, c, b)
		}
	}
}
