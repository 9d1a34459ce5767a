package cascadestore_test

import (
	"strings"
	"testing"

	"github.com/gaesession/gaesession/cascadestore"
)

func TestAShortKeyWorksAndIsWarnedOf(t *testing.T) {
	log := captureDefaultLog(t)
	short, long := make([]byte, 31), make([]byte, 32)
	cs := cascadestore.NewCascadeStore(cascadestore.DistributedBackends, short)
	if err := cs.Err(); err != nil {
		t.Errorf("Err: %v", err)
	}
	if n := strings.Count(log.String(), "too short"); n != 1 {
		t.Errorf("%d warnings, want one: %s", n, log)
	}
	if err := cs.StrictErr(); err == nil || !strings.Contains(err.Error(), "too short") {
		t.Errorf("StrictErr: got %v, want that the key is too short", err)
	}
	// Old cookies may be read with a short key.
	cs = cascadestore.NewCascadeStore(cascadestore.DistributedBackends, long, nil, short)
	if err := cs.StrictErr(); err != nil {
		t.Errorf("StrictErr with a long key in front: %v", err)
	}
	if n := strings.Count(log.String(), "too short"); n != 1 {
		t.Errorf("%d warnings, want one: %s", n, log)
	}
}
