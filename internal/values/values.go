// Package values compares and merges the named values of sessions.
//
// It has a deep comparison of its own since no library was found that tells
// changes of sessions right. To reflect.DeepEqual, go-testdeep, messagediff and
// kr/pretty NaN is always a change; go-cmp and go-test/deep trust Equal methods
// of the app's types, which may leave fields out, and the fork of DeepEqual in
// k8s.io/apimachinery panics at unexported fields.
package values

// AreScalars reports whether every value in m can only be replaced, and not be
// changed in place.
func AreScalars[K comparable](m map[K]any) bool {
	for _, v := range m {
		if !isScalar(v) {
			return false
		}
	}
	return true
}

// Changes returns the names whose values now has and before does not, or has as
// values that are not Equal, and the names that only before has. Its time grows
// with the number of names, not with its square.
func Changes[K comparable](before, now map[K]any) (set, deleted []K) {
	common := 0
	for k, v := range now {
		was, ok := before[k]
		if ok {
			common++
		}
		if !ok || !Equal(was, v) {
			set = append(set, k)
		}
	}
	if common == len(before) {
		return set, nil
	}
	for k := range before {
		if _, ok := now[k]; !ok {
			deleted = append(deleted, k)
		}
	}
	return set, deleted
}

// Merge returns the values of into, with those whose names take reports as from has
// them: set to the same, or left out. It changes neither.
func Merge[K comparable](into, from map[K]any, take func(name K) bool) map[K]any {
	// A new map: a name that is NaN cannot be deleted.
	merged := make(map[K]any, max(len(into), len(from)))
	for k, v := range into {
		if !take(k) {
			merged[k] = v
		}
	}
	for k, v := range from {
		if take(k) {
			merged[k] = v
		}
	}
	return merged
}
