package tiertest

import "time"

// A backup in memory is quick.
func init() { backupPatience, backupHeld = 5*time.Second, 100*time.Millisecond }
