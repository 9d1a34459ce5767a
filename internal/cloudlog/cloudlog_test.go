package cloudlog_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"

	"google.golang.org/appengine/v2"

	"github.com/gaesession/gaesession/internal/cloudlog"
)

// TestMain is the app whose log is looked at, when it is told to be: what is
// written depends on the environment at the start of a process.
func TestMain(m *testing.M) {
	how := os.Getenv("CLOUDLOG_TEST")
	if how == "" {
		os.Exit(m.Run())
	}
	fail := func(ctx context.Context) {
		cloudlog.Default().With("store", "x").ErrorContext(ctx, "session store", "error", errors.New("it failed"))
	}
	switch how {
	case "request":
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("X-Cloud-Trace-Context", "abc123/42;o=1")
		appengine.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			fail(appengine.NewContext(r))
		})).ServeHTTP(httptest.NewRecorder(), r)
		return
	case "own":
		slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	}
	fail(context.Background())
}

func TestErrorsAreEntriesOfCloudLogging(t *testing.T) {
	onGAE, onRun := []string{"GAE_ENV=standard", "GOOGLE_CLOUD_PROJECT=app"}, []string{"K_SERVICE=app"}
	const trace = "projects/app/traces/abc123"
	for name, test := range map[string]struct {
		how   string
		env   []string
		json  bool
		trace any
	}{
		"elsewhere":                        {"plain", nil, false, nil},
		"App Engine, in a request":         {"request", onGAE, true, trace},
		"App Engine, outside of a request": {"plain", onGAE, true, nil},
		"Cloud Run":                        {"plain", onRun, true, nil},
		"with a logger of the app's own":   {"own", onGAE, false, nil},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(append(os.Environ(), "CLOUDLOG_TEST="+test.how), test.env...)
			stderr, err := cmd.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(stderr)
			if err := errors.Join(err, cmd.Wait()); err != nil {
				t.Fatal(err)
			}
			text := string(b)
			for _, want := range []string{"session store", "it failed", "store"} {
				if !strings.Contains(text, want) {
					t.Errorf("got %q, want it to contain %q", text, want)
				}
			}
			var entry map[string]any
			if err := json.Unmarshal(b, &entry); (err == nil) != test.json {
				t.Fatalf("got %q, is JSON: %v, want %t", text, err == nil, test.json)
			}
			if !test.json {
				return
			}
			if entry["severity"] != "ERROR" || entry["message"] == nil {
				t.Errorf("got %v, want a message of severity ERROR", entry)
			}
			if got := entry["logging.googleapis.com/trace"]; got != test.trace {
				t.Errorf("got trace %v, want %v", got, test.trace)
			}
		})
	}
}
