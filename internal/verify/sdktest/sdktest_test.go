//go:build unix

package sdktest

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/appengine/v2/datastore"
	"google.golang.org/appengine/v2/memcache"
)

func TestMain(m *testing.M) {
	if os.Getenv("SDKTEST_CHILD") != "" {
		dieWithServer()
	}
	Main(m)
}

func TestAProcessThatDiesTakesItsServerWithIt(t *testing.T) {
	need(t)
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), "SDKTEST_CHILD=1")
	var out bytes.Buffer
	child.Stdout = &out
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	Start(t) // the other tests' server may as well start meanwhile
	if err := child.Wait(); err == nil {
		t.Fatal("the child did not die")
	}
	pid, err := strconv.Atoi(strings.TrimSpace(out.String()))
	if err != nil {
		t.Fatalf("the child's server: %v", err)
	}
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("server %d outlived the process that started it", pid)
		}
	}
}

func TestContextsReachTheServerInTheirNamespace(t *testing.T) {
	server := Start(t)
	if again := Start(t); again != server {
		t.Error("a second Start started another server")
	}
	if err := memcache.Set(server.Context("a"), &memcache.Item{Key: "k", Value: []byte("v")}); err != nil {
		t.Fatal(err)
	}
	if item, err := memcache.Get(server.Context("a"), "k"); err != nil || string(item.Value) != "v" {
		t.Errorf("same namespace: got %v, %v; want v", item, err)
	}
	if _, err := memcache.Get(server.Context("b"), "k"); err != memcache.ErrCacheMiss {
		t.Errorf("other namespace: got %v, want a cache miss", err)
	}
	key := datastore.NewKey(server.Context(), "Kind", "name", 0, nil)
	if key.AppID() != "dev~"+AppID {
		t.Errorf("app id: got %q, want %q", key.AppID(), "dev~"+AppID)
	}
}

func TestTheServersMemoryIsKnown(t *testing.T) {
	server := Start(t)
	got, err := server.RSS()
	if err != nil {
		t.Fatal(err)
	}
	if got < 10<<20 {
		t.Errorf("resident memory: got %d bytes, want that of a Python process, at least 10 MiB", got)
	}
}

// dieWithServer prints the pid of a server and ends without closing it.
func dieWithServer() {
	server, err := New()
	if err != nil {
		os.Exit(1)
	}
	os.Stdout.WriteString(strconv.Itoa(server.Pid()))
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
}
