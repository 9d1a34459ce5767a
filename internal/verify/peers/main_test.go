package peers

import (
	"context"
	"flag"
	"io"
	"log"
	"log/slog"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/gaesession/gaesession/internal/verify/gaetest"
)

var (
	rounds   = flag.Int("peers.rounds", 0, "compare times in that many rounds, and judge them; Redis is silent for ten seconds then")
	overHTTP = flag.Bool("peers.http", false, "compare times of requests over connections, without a judgement")
)

// What goes wrong is counted.
func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	log.SetOutput(io.Discard)
	redis.SetLogger(silent{})
	gaetest.Main(m)
}

type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}
