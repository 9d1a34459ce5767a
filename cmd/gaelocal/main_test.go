//go:build unix

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/appengine/v2"
	"google.golang.org/appengine/v2/datastore"
)

// The test binary is also gaelocal, if it is called by that name, and the app
// that gaelocal runs, which this variable tells what to do.
const envPart = "GAELOCAL_TEST_APP"

func TestMain(m *testing.M) {
	if os.Args[0] == "gaelocal" {
		main()
	}
	if part := os.Getenv(envPart); part != "" {
		os.Exit(play(part))
	}
	os.Exit(m.Run())
}

type note struct{ Text string }

// play is an app that gaelocal runs.
func play(part string) int {
	ctx := appengine.NewContext(httptest.NewRequest(http.MethodGet, "/", nil))
	key := datastore.NewKey(ctx, "Note", "n", 0, nil)
	switch part {
	case "put":
		if _, err := datastore.Put(ctx, key, &note{"kept"}); err != nil {
			return fail(err)
		}
		return 0
	case "get":
		var n note
		if err := datastore.Get(ctx, key, &n); err != nil {
			return fail(err)
		}
		os.Stdout.WriteString(n.Text + " by " + appengine.AppID(ctx))
		return 0
	case "status 7":
		return 7
	case "wait":
		os.Stdout.WriteString("waiting\n")
		time.Sleep(time.Minute)
		return 0
	case "parent":
		// Like "go run": starts a program and knows nothing of signals.
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), envPart+"=last words")
		child.Stdout = os.Stdout
		return fail(child.Run())
	case "last words":
		return lastWords(ctx, key)
	default:
		return fail(errors.New("unknown part " + part))
	}
}

func fail(err error) int {
	os.Stderr.WriteString(err.Error() + "\n")
	return 3
}

// command returns the command "gaelocal args...".
func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return &exec.Cmd{
		Path:      self,
		Args:      append([]string{"gaelocal"}, args...),
		Stderr:    new(bytes.Buffer),
		WaitDelay: 20 * time.Second,
	}
}

// local returns the command "gaelocal args... -- app", where the app plays a
// part.
func local(t *testing.T, part string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := command(t, args...)
	cmd.Args = append(cmd.Args, "--", cmd.Path)
	cmd.Env = append(os.Environ(), envPart+"="+part)
	return cmd
}

func status(t *testing.T, err error) int {
	t.Helper()
	if err == nil {
		return 0
	}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exit.ExitCode()
	}
	t.Fatal(err)
	return 0
}

func wantStatus(t *testing.T, cmd *exec.Cmd, err error, want int) {
	t.Helper()
	if got := status(t, err); got != want {
		t.Errorf("exit status = %d, want %d; stderr: %s", got, want, cmd.Stderr)
	}
}

func TestTheAppFindsItsDataAfterARestart(t *testing.T) {
	data := filepath.Join(t.TempDir(), "sessions.db")
	put := local(t, "put", "-data", data, "-app", "shop")
	wantStatus(t, put, put.Run(), 0)
	get := local(t, "get", "-data", data, "-app", "shop")
	out, err := get.Output()
	wantStatus(t, get, err, 0)
	if got, want := string(out), "kept by shop"; got != want {
		t.Errorf("the app printed %q, want %q", got, want)
	}
}

func TestTheExitStatusIsTheCommands(t *testing.T) {
	cmd := local(t, "status 7")
	wantStatus(t, cmd, cmd.Run(), 7)
}

func TestItSaysWhereTheServicesAndTheDataAre(t *testing.T) {
	data := filepath.Join(t.TempDir(), "sessions.db")
	for want, args := range map[string][]string{"in memory": nil, "in " + data: {"-data", data}} {
		cmd := local(t, "put", args...)
		wantStatus(t, cmd, cmd.Run(), 0)
		got := cmd.Stderr.(*bytes.Buffer).String()
		line := regexp.MustCompile(`^gaelocal: Memcache and Datastore at 127\.0\.0\.1:\d+, data ` + regexp.QuoteMeta(want) + "\n$")
		if !line.MatchString(got) {
			t.Errorf("with %v it prints %q, want one line like %v", args, got, line)
		}
	}
}

func TestACommandThatDoesNotExistIsStatus127(t *testing.T) {
	for _, name := range []string{"no-such-command", "./no-such-command"} {
		cmd := command(t, "--", name)
		wantStatus(t, cmd, cmd.Run(), 127)
	}
}

// await waits for a line of a command that has started.
func await(t *testing.T, out io.Reader, want string) {
	t.Helper()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != want {
		t.Fatalf("read %q, %v, want %q", line, err, want)
	}
}

func start(t *testing.T, cmd *exec.Cmd) io.Reader {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestSignalsArePassedOn(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		t.Run(s.String(), func(t *testing.T) {
			cmd := local(t, "wait")
			await(t, start(t, cmd), "waiting")
			if err := cmd.Process.Signal(s); err != nil {
				t.Fatal(err)
			}
			wantStatus(t, cmd, cmd.Wait(), 128+int(s))
		})
	}
}

func TestAnAppBelowTheCommandGetsSignalsAndTimeToSave(t *testing.T) {
	data := filepath.Join(t.TempDir(), "sessions.db")
	cmd := local(t, "parent", "-data", data)
	await(t, start(t, cmd), "waiting")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, cmd, cmd.Wait(), 128+int(syscall.SIGTERM))
	get := local(t, "get", "-data", data)
	out, err := get.Output()
	wantStatus(t, get, err, 0)
	if got, want := string(out), "last words by local"; got != want {
		t.Errorf("the app printed %q, want %q", got, want)
	}
}

func TestWithoutACommandItPrintsTheEnvironmentAndServes(t *testing.T) {
	cmd := command(t)
	out := bufio.NewReader(start(t, cmd))
	env := map[string]string{}
	for range 8 {
		line, err := out.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		name, value, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "=")
		env[name] = strings.Trim(value, "'")
	}
	if got, want := env["GAE_APPLICATION"], "dev~local"; got != want {
		t.Errorf("GAE_APPLICATION = %q, want %q", got, want)
	}
	conn, err := net.Dial("tcp", env["API_HOST"]+":"+env["API_PORT"])
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, cmd, cmd.Wait(), 0)
	want := "gaelocal: Memcache and Datastore at " + env["API_HOST"] + ":" + env["API_PORT"] + ", data in memory, until it is interrupted\n"
	if got := cmd.Stderr.(*bytes.Buffer).String(); got != want {
		t.Errorf("it prints %q, want %q", got, want)
	}
}

// A client that is stuck, or wants to do harm, must not keep gaelocal alive.
func TestARequestThatStopsHalfWayDoesNotKeepItFromEnding(t *testing.T) {
	cmd := command(t)
	out := bufio.NewReader(start(t, cmd))
	var address [2]string
	for i, name := range []string{"API_HOST", "API_PORT"} {
		line, err := out.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		address[i] = strings.Trim(strings.TrimPrefix(line, "export "+name+"="), "'\n")
	}
	conn, err := net.Dial("tcp", net.JoinHostPort(address[0], address[1]))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// The server says "continue" when it has begun to read the body.
	const half = "POST /rpc_http HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n"
	if _, err := io.WriteString(conn, half); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("the server answered %q, %v, want that it waits for the body", line, err)
	}
	if _, err := io.WriteString(conn, "half"); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	stuck := time.AfterFunc(30*time.Second, func() {
		t.Error("it had not ended half a minute after SIGTERM")
		_ = cmd.Process.Kill() // the test has failed already
	})
	defer stuck.Stop()
	wantStatus(t, cmd, cmd.Wait(), 0)
}

func TestAFailingStartIsOneSentence(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cmd := command(t, "-addr", l.Addr().String(), "--", "true")
	wantStatus(t, cmd, cmd.Run(), 1)
	if got := cmd.Stderr.(*bytes.Buffer).String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, l.Addr().String()) {
		t.Errorf("stderr = %q, want one line with the address %s", got, l.Addr())
	}
}

// lastWords saves something a while after SIGTERM.
func lastWords(ctx context.Context, key *datastore.Key) int {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	os.Stdout.WriteString("waiting\n")
	<-signals
	time.Sleep(300 * time.Millisecond)
	if _, err := datastore.Put(ctx, key, &note{"last words"}); err != nil {
		return fail(err)
	}
	return 0
}
