package rediscache

import "time"

// Collect replaces what lets other goroutines run before a batch is sent.
func (c *Cache) Collect(f func()) { c.batches.collect = f }

// Calls returns how many calls have added to the open batch.
func (c *Cache) Calls() int {
	c.batches.mu.Lock()
	defer c.batches.mu.Unlock()
	if c.batches.open == nil {
		return 0
	}
	return c.batches.open.calls
}

// AloneAfter reports whether a call goes alone after a batch of that many calls has let
// others run for that long.
func AloneAfter(calls int, took time.Duration) bool {
	s := batches{open: &batch{calls: calls}}
	s.close(took)
	return time.Now().Before(s.alone)
}

// OpenBatches makes calls open batches, whatever has been before.
func (c *Cache) OpenBatches() { c.batches.pause(0) }
