package cascadestore

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
)

// The environment variables that NewCascadeStore reads.
const (
	// CkDoDisplayLogging: "true" or another value strconv.ParseBool takes for
	// true makes the store log every step, see CascadeStore.Logger. Empty means
	// false.
	CkDoDisplayLogging = "SessionCascadeDisplayLogging"

	// CkMaxMemcacheSessionSizeBytes: a session whose serialized form is longer
	// than this many bytes skips Memcache and lives in Datastore alone. Empty,
	// zero or less means what App Engine takes: 1 MiB less what Memcache needs
	// for the key and for itself, 1,048,253 bytes.
	CkMaxMemcacheSessionSizeBytes = "MaxMemcacheSessionSizeBytes"
)

// environment is what the environment variables say.
type environment struct {
	displayLogging   bool
	maxMemcacheValue int // bytes; 0: what Memcache takes
}

func readEnvironment() (env environment, err error) {
	if v := os.Getenv(CkDoDisplayLogging); v != "" {
		var perr error
		if env.displayLogging, perr = strconv.ParseBool(v); perr != nil {
			err = errors.Join(err, fmt.Errorf("environment variable %s is %q, want true or false", CkDoDisplayLogging, v))
		}
	}
	if v := os.Getenv(CkMaxMemcacheSessionSizeBytes); v != "" {
		n, perr := strconv.ParseInt(v, 10, 64)
		if perr != nil {
			err = errors.Join(err, fmt.Errorf("environment variable %s is %q, want a number of bytes", CkMaxMemcacheSessionSizeBytes, v))
		}
		env.maxMemcacheValue = int(min(max(n, 0), math.MaxInt32))
	}
	return env, err
}
