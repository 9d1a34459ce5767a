//go:build go1.25 && !race

package interleave

// isSlow tells that there is time for fewer schedules.
const isSlow = false
