package rediscache

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
