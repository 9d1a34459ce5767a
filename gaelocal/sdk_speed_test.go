package gaelocal_test

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/appengine/v2/datastore"
	"google.golang.org/appengine/v2/memcache"

	"github.com/gaesession/gaesession/gaelocal"
	"github.com/gaesession/gaesession/internal/verify/sdktest"
)

var (
	measureSpeed = flag.Bool("sdk.speed", false, "measure gaelocal beside Google's server")
	speedRounds  = flag.Int("sdk.speed.rounds", 5, "rounds of every row")
	speedRound   = flag.Duration("sdk.speed.round", 500*time.Millisecond, "length of a round")
)

// What gaelocal is to reach against Google's server. A put with a data file
// waits for the disk, which Google's server does not, and is measured only.
const (
	wantStart = 20.0
	wantRate  = 3.0
)

// Environment variables that make the test binary a gaelocal server.
const (
	envServe     = "GAELOCAL_TEST_SERVE"
	envServeData = "GAELOCAL_TEST_DATA"
)

// serve is a gaelocal process: it prints its address and runs until its
// standard input is closed.
func serve() {
	server, err := gaelocal.Start(gaelocal.Options{AppID: sdktest.AppID, Data: os.Getenv(envServeData)})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(server.Addr())
	_, _ = io.Copy(io.Discard, os.Stdin) // any end of it is the end
	if err := server.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// A contestant is a server in a process of its own.
type contestant struct {
	side
	startup time.Duration
	rss     func() (int64, error)
	close   func() error
}

func startGoogle() (*contestant, error) {
	server, err := sdktest.New()
	if err != nil {
		return nil, err
	}
	return &contestant{side{"google", server.Context}, server.StartupTime(), server.RSS, server.Close}, nil
}

// startProcess starts a gaelocal process. Its time ends, as that of Google's
// server, when it has said where it listens.
func startProcess(data string) (*contestant, error) {
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), envServe+"=1", envServeData+"="+data)
	child.Stderr = os.Stderr
	in, err := child.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := child.StdoutPipe()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := child.Start(); err != nil {
		return nil, err
	}
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("gaelocal did not say where it listens: %w", err)
	}
	startup := time.Since(began)
	host, port, err := net.SplitHostPort(strings.TrimSpace(address))
	if err != nil {
		return nil, err
	}
	for name, value := range map[string]string{"API_HOST": host, "API_PORT": port, "GAE_APPLICATION": "dev~" + sdktest.AppID} {
		if err := os.Setenv(name, value); err != nil {
			return nil, err
		}
	}
	return &contestant{
		side:    side{"gaelocal", func(...string) context.Context { return context.Background() }},
		startup: startup,
		rss:     func() (int64, error) { return sdktest.RSS(child.Process.Pid) },
		close: func() error {
			if err := in.Close(); err != nil {
				return err
			}
			return child.Wait()
		},
	}, nil
}

// speedEntity is what a session is in Datastore.
type speedEntity struct {
	Expires time.Time `datastore:"exp"`
	Value   []byte    `datastore:"val,noindex"`
}

const (
	speedKeys  = 100
	speedValue = 1000 // bytes
)

// A row is an operation that is measured.
type row struct {
	name string
	do   func(ctx context.Context, i int) error
}

var speedRows = []row{
	{"memcache get", func(ctx context.Context, i int) error {
		_, err := memcache.Get(ctx, fmt.Sprint("speed", i%speedKeys))
		return err
	}},
	{"memcache set", func(ctx context.Context, i int) error {
		return memcache.Set(ctx, &memcache.Item{Key: fmt.Sprint("speed", i%speedKeys), Value: make([]byte, speedValue)})
	}},
	{"datastore get", func(ctx context.Context, i int) error {
		return datastore.Get(ctx, datastore.NewKey(ctx, "sess_", fmt.Sprint("speed", i%speedKeys), 0, nil), &speedEntity{})
	}},
	{"datastore put", func(ctx context.Context, i int) error {
		_, err := datastore.Put(ctx, datastore.NewKey(ctx, "sess_", fmt.Sprint("speed", i%speedKeys), 0, nil),
			&speedEntity{time.Now().Add(time.Hour), make([]byte, speedValue)})
		return err
	}},
}

// rate runs callers for one round and returns their operations per second.
func rate(side side, row row, callers int) (float64, error) {
	var wait sync.WaitGroup
	counts, errs := make([]int, callers), make([]error, callers)
	began := time.Now()
	for caller := range counts {
		wait.Add(1)
		go func() {
			defer wait.Done()
			ctx := side.context()
			for i := caller; time.Since(began) < *speedRound && errs[caller] == nil; i += callers {
				errs[caller] = row.do(ctx, i)
				counts[caller]++
			}
		}()
	}
	wait.Wait()
	took := time.Since(began)
	total := 0
	for caller, count := range counts {
		if errs[caller] != nil {
			return 0, errs[caller]
		}
		total += count
	}
	return float64(total) / took.Seconds(), nil
}

// A sample is the same thing measured several times.
type sample []float64

func (s sample) median() float64 {
	sorted := append(sample(nil), s...)
	sort.Float64s(sorted)
	if n := len(sorted); n%2 == 0 {
		return (sorted[n/2-1] + sorted[n/2]) / 2
	}
	return sorted[len(sorted)/2]
}

// by divides each of s by that of other.
func (s sample) by(other sample) sample {
	ratios := make(sample, len(s))
	for i := range s {
		ratios[i] = s[i] / other[i]
	}
	return ratios
}

func (s sample) text(format string) string {
	low, high := s[0], s[0]
	for _, v := range s {
		low, high = min(low, v), max(high, v)
	}
	return fmt.Sprintf(format+" ("+format+"–"+format+")", s.median(), low, high)
}

func TestSpeedBesideGooglesServer(t *testing.T) {
	if !*measureSpeed {
		t.Skip("-sdk.speed measures it")
	}
	sdktest.Start(t) // skips without an SDK
	if err := sdktest.Shutdown(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"API_HOST", "API_PORT", "GAE_APPLICATION"} {
		t.Setenv(name, "") // restored after the test
	}
	for _, kind := range []struct{ name, data string }{
		{"in memory", ""},
		{"with a data file", filepath.Join(t.TempDir(), "data")},
	} {
		t.Run(kind.name, func(t *testing.T) { compareSpeed(t, kind.data) })
	}
}

func compareSpeed(t *testing.T, data string) {
	servers, starts := startContestants(t, data)
	var out table
	fmt.Fprintf(&out, "\n%d rounds of %s, median (lowest–highest); values of %d bytes, %d keys; %s, %d CPUs, shared with the callers\n\n",
		*speedRounds, *speedRound, speedValue, speedKeys, runtime.Version(), runtime.NumCPU())
	fmt.Fprintf(&out, "| | callers | gaelocal | Google's server | ratio |\n|---|---|---|---|---|\n")
	out.line(t, "start, ms", "", starts, starts[1].by(starts[0]), wantStart)

	for _, server := range servers {
		for i := 0; i < speedKeys; i++ {
			for _, row := range []row{speedRows[1], speedRows[3]} {
				if err := row.do(server.context(), i); err != nil {
					t.Fatalf("%s of %s: %v", row.name, server.name, err)
				}
			}
		}
	}
	for _, row := range speedRows {
		want := wantRate
		if data != "" && row.name == "datastore put" {
			want = 0
		}
		for _, callers := range []int{1, 8} {
			rates := measure(t, servers, row, callers)
			out.line(t, row.name+", per s", fmt.Sprint(callers), rates, rates[0].by(rates[1]), want)
		}
	}
	var memory [2]float64
	for i, server := range servers {
		bytes, err := server.rss()
		if err != nil {
			t.Fatal(err)
		}
		memory[i] = float64(bytes) / (1 << 20)
	}
	fmt.Fprintf(&out, "| resident memory after it, MiB | | %.0f | %.0f | %.1f |\n", memory[0], memory[1], memory[1]/memory[0])
	t.Log(out.String())
}

// startContestants starts gaelocal and Google's server, which run until the
// test ends, and returns how many milliseconds each start took.
func startContestants(t *testing.T, data string) (servers [2]*contestant, starts [2]sample) {
	t.Helper()
	local := func() (*contestant, error) { return startProcess(data) }
	for round := 1; round <= *speedRounds; round++ {
		for i, start := range []func() (*contestant, error){local, startGoogle} {
			server, err := start()
			if err != nil {
				t.Fatal(err)
			}
			end := func() {
				if err := server.close(); err != nil {
					t.Errorf("close %s: %v", server.name, err)
				}
			}
			servers[i] = server
			starts[i] = append(starts[i], float64(server.startup.Microseconds())/1000)
			if round < *speedRounds {
				end()
			} else {
				t.Cleanup(end)
			}
		}
	}
	return servers, starts
}

// measure returns the rates of an operation on both servers, round by round.
func measure(t *testing.T, servers [2]*contestant, row row, callers int) (rates [2]sample) {
	t.Helper()
	for range *speedRounds {
		for i, server := range servers {
			got, err := rate(server.side, row, callers)
			if err != nil {
				t.Fatalf("%s of %s: %v", row.name, server.name, err)
			}
			rates[i] = append(rates[i], got)
		}
	}
	return rates
}

type table struct{ strings.Builder }

// line writes a line about gaelocal and Google's server, and fails t if
// gaelocal is not as many times as fast as wanted. The ratios are those of
// neighbouring rounds: other load on the machine changes from minute to minute.
func (out *table) line(t *testing.T, name, callers string, measured [2]sample, ratios sample, want float64) {
	t.Helper()
	const whole = "%.0f"
	ratio := ratios.median()
	fmt.Fprintf(out, "| %s | %s | %s | %s | %s |\n", name, callers, measured[0].text(whole), measured[1].text(whole), ratios.text("%.1f"))
	if ratio < want {
		t.Errorf("%s, callers %s: gaelocal is %.1f times as fast, want %.0f", name, callers, ratio, want)
	}
}
