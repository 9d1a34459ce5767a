package tiertest

import "time"

// A backup in memory is quick.
func init() { backupPatience = 5 * time.Second }
