// Package tiertest shows whether implementations of package tier's interfaces
// keep their contracts:
//
//	func TestBackup(t *testing.T) {
//		tiertest.TestBackup(t, func(t *testing.T) tier.Backup { return open(t) })
//	}
//
// Every sentence of the contracts that can be broken is a test. Run it with the
// race detector, and on the real service or its emulator.
//
// [NewBackup] and [NewCache] return implementations in memory, for the tests of
// apps that use the stores.
package tiertest
