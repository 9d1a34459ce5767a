//go:build go1.25

package rediscache

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestWhatIsNoItemIsLoggedOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		c := &Cache{logger: slog.New(slog.NewTextHandler(&log, nil))}
		for minute := range 3 {
			for range 60 {
				c.foundForeign(context.Background(), "key")
				time.Sleep(time.Second)
			}
			if n := strings.Count(log.String(), "\n"); n != minute+1 {
				t.Errorf("after %d minutes there are %d records, want one a minute", minute+1, n)
			}
		}
		if c.Foreign() != 180 || !strings.Contains(log.String(), "calls=121") {
			t.Errorf("%d calls are counted, want 180, and these are logged:\n%s", c.Foreign(), log.String())
		}
	})
}
