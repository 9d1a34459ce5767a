package live

import (
	"crypto/sha256"
	"encoding/base64"
	"strings"

	"github.com/gaesession/gaesession/tier"
)

const (
	// HashedPrefix begins the ids that no service is told.
	HashedPrefix = "h."

	keyPrefix = "h:"
)

// Key is what the services know the session of that id by: for an id that begins
// with HashedPrefix a hash of it, from which nobody can tell the id; for any other
// the id.
func Key(id string) string {
	if !strings.HasPrefix(id, HashedPrefix) {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	var key [len(keyPrefix) + (sha256.Size*8+5)/6]byte
	copy(key[:], keyPrefix)
	base64.RawURLEncoding.Encode(key[len(keyPrefix):], sum[:])
	return string(key[:])
}

// isReserved reports whether no session may have that id: something else may be
// kept under it, or it is another session's key.
func isReserved(id string) bool {
	return strings.HasPrefix(id, keyPrefix) || strings.HasPrefix(id, tier.OwnerPrefix)
}
