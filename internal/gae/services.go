package gae

import "github.com/gaesession/gaesession/tier"

// Services returns the services that an app has chosen: in place of a nil cache m,
// in place of a nil backup d, and no cache where it has chosen tier.None.
func Services(c tier.Cache, b tier.Backup, m Memcache, d Datastore) (tier.Cache, tier.Backup) {
	switch c {
	case nil:
		c = m
	case tier.None:
		c = nil
	}
	if b == nil {
		b = d
	}
	return c, b
}
