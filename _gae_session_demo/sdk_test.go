package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/appengine/v2/memcache"
)

// sdk is where Google's Cloud SDK is installed.
type sdk string

// findSDK returns the installed SDK. Without one it skips the test, or fails it
// with GAESESSION_SDK=require in the environment.
func findSDK(t *testing.T) sdk {
	t.Helper()
	const env = "GAESESSION_SDK"
	if os.Getenv(env) == "off" {
		t.Skip(env + "=off: not run with Google's SDK")
	}
	if runtime.GOOS == "windows" {
		t.Skip("not run with Google's SDK: needs a Unix shell")
	}
	root, err := sdkRoot()
	if err != nil {
		if os.Getenv(env) == "require" {
			t.Fatalf("%s=require, but %v", env, err)
		}
		t.Skipf("not run with Google's SDK: %v", err)
	}
	return root
}

// sdkRoot finds the SDK from where dev_appserver.py really is: in the folder
// bin, or in that of App Engine.
func sdkRoot() (sdk, error) {
	script := os.Getenv("APPENGINE_DEV_APPSERVER")
	if script == "" {
		var err error
		if script, err = exec.LookPath("dev_appserver.py"); err != nil {
			return "", errors.New("no dev_appserver.py in PATH (it comes with the App Engine part of the Google Cloud SDK)")
		}
	}
	script, err := filepath.EvalSymlinks(script)
	if err != nil {
		return "", err
	}
	for dir := filepath.Dir(script); dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(sdk(dir).appEngine("go-app-stager")); err == nil {
			return sdk(dir), nil
		}
	}
	return "", fmt.Errorf("no go-app-stager above %s (it comes with the component app-engine-go)", script)
}

// appEngine is the path of a file in the SDK's App Engine folder.
func (s sdk) appEngine(name string) string {
	return filepath.Join(string(s), "platform", "google_appengine", name)
}

// python is a Python that can run the SDK: rather the system's own, because
// others may lack modules or shadow the SDK's.
func (s sdk) python(t *testing.T) string {
	t.Helper()
	for _, path := range []string{"/usr/bin/python3", "/usr/local/bin/python3"} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	path, err := exec.LookPath("python3")
	if err != nil {
		t.Fatalf("no Python to run the SDK with: %v", err)
	}
	return path
}

// environ is this process's environment with the folder of the go command, which
// the SDK's tools call, first in PATH, and with the variables in more.
func environ(t *testing.T, more ...string) []string {
	t.Helper()
	goCommand, err := exec.LookPath("go")
	if err != nil {
		t.Fatal(err)
	}
	path := "PATH=" + filepath.Dir(goCommand) + string(os.PathListSeparator) + os.Getenv("PATH")
	return append(append(os.Environ(), path), more...)
}

// appFolder is the folder of app.yaml.
func appFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd() // tests run in their package's folder
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// A devAppServer is a running dev_appserver.py with the demo.
type devAppServer struct {
	app, api string // addresses
}

// The shell ends the server when its standard input is closed: by the test, or
// by the end of the test's process, whatever ended it.
const serverScript = `"$@" </dev/null & server=$!
read line
kill -TERM $server 2>/dev/null
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
	kill -0 $server 2>/dev/null || exit 0
	sleep 0.5
done
kill -KILL $server 2>/dev/null
exit 0`

var addressLogged = regexp.MustCompile(`Starting (API server|module "default"|admin server).* at: (http://\S+)`)

func startDevAppServer(t *testing.T, s sdk) devAppServer {
	t.Helper()
	python := s.python(t)
	command := exec.Command("/bin/sh", "-c", serverScript, "sh", python, s.appEngine("dev_appserver.py"),
		// app.yaml asks for a runtime that this SDK may not know. The app is
		// built with the go command in PATH in any case.
		"--runtime=go124",
		"--port=0", "--api_port=0", "--admin_port=0",
		"--storage_path="+t.TempDir(),
		"--support_datastore_emulator=false",
		"--datastore_consistency_policy=consistent",
		"--automatic_restart=false",
		"--skip_sdk_update_check=true",
		filepath.Join(appFolder(t), "app.yaml"))
	command.Env = environ(t)
	stdin, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := command.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	var log lockedBuffer
	logged := make(chan struct{})
	ready := make(chan devAppServer, 1)
	go func() {
		defer close(logged)
		var d devAppServer
		lines := bufio.NewReader(io.TeeReader(stderr, &log))
		for {
			line, err := lines.ReadString('\n')
			if m := addressLogged.FindStringSubmatch(line); m != nil {
				switch m[1] {
				case "API server":
					d.api = m[2]
				case "admin server": // starts last
					ready <- d
				default:
					d.app = m[2]
				}
			}
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		stdin.Close()
		<-logged
		if err := command.Wait(); err != nil {
			t.Errorf("dev_appserver.py: %v", err)
		}
		if t.Failed() {
			t.Logf("dev_appserver.py wrote:\n%s", log.String())
		}
	})
	select {
	case d := <-ready:
		return d
	case <-logged:
		t.Fatal("dev_appserver.py ended")
	case <-time.After(5 * time.Minute):
		t.Fatal("dev_appserver.py is not ready after five minutes")
	}
	return devAppServer{}
}

// lockedBuffer is a bytes.Buffer for several goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestTheDemoUnderDevAppServer(t *testing.T) {
	server := startDevAppServer(t, findSDK(t))
	api, err := url.Parse(server.api)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("API_HOST", api.Hostname())
	t.Setenv("API_PORT", api.Port())
	b := newBrowser(t, server.app)
	tellStory(t, b, func() {
		if err := memcache.Flush(context.Background()); err != nil {
			t.Fatalf("flush: %v", err)
		}
	})
	if page := b.get("/"); strings.Contains(page.body, "/cache/") {
		t.Error("the page offers to make Memcache fail")
	}
}

// uploadScript lists the files below a staged folder that gcloud would upload,
// by gcloud's own code.
const uploadScript = `
import os, sys
sdk, app, staged = sys.argv[1:]
sys.path[:0] = [os.path.join(sdk, "lib"), os.path.join(sdk, "lib", "third_party")]
from googlecloudsdk.command_lib.util import gcloudignore
chooser = gcloudignore.GetFileChooserForDir(app, write_on_disk=False)
print("\n".join(chooser.GetIncludedFiles(staged, include_dirs=False)))
`

func TestWhatIsDeployedBuildsByItselfAndHasNoTestsOrData(t *testing.T) {
	s := findSDK(t)
	app, staged := appFolder(t), t.TempDir()
	output := func(command *exec.Cmd, more ...string) string {
		t.Helper()
		var stderr bytes.Buffer
		command.Stderr = &stderr
		command.Env = environ(t, more...)
		out, err := command.Output()
		if err != nil {
			t.Fatalf("%s: %v\n%s", command, err, stderr.String())
		}
		return string(out)
	}
	output(exec.Command(s.appEngine("go-app-stager"), filepath.Join(app, "app.yaml"), app, staged))
	main, err := os.ReadFile(filepath.Join(staged, "_main-package-path"))
	if err != nil {
		t.Fatal(err)
	}
	// What a developer's folder may have as well.
	for _, name := range []string{"sessions.db", "_gae_session_demo/sessions.db", "gaelocal/gaelocal.test", "cpu.out"} {
		if err := os.WriteFile(filepath.Join(staged, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}

	uploaded := map[string]bool{}
	for _, name := range strings.Fields(output(exec.Command(s.python(t), "-c", uploadScript, string(s), app, staged))) {
		uploaded[name] = true
	}
	for _, name := range []string{"go.mod", "go.sum", "_main-package-path", "_gae_session_demo/main.go", "_gae_session_demo/page.html"} {
		if !uploaded[name] {
			t.Errorf("%s is not uploaded", name)
		}
	}
	unwanted := regexp.MustCompile(`_test\.go$|\.db$|\.test$|\.out$|(^|/)testdata/|(^|/)\.`)
	for name := range uploaded {
		if unwanted.MatchString(name) {
			t.Errorf("%s is uploaded", name)
		}
	}
	err = filepath.WalkDir(staged, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, err := filepath.Rel(staged, path)
		if err != nil || uploaded[filepath.ToSlash(name)] {
			return err
		}
		return os.Remove(path)
	})
	if err != nil {
		t.Fatal(err)
	}

	build := exec.Command("go", "build", "-o", filepath.Join(t.TempDir(), "main"), "./"+strings.TrimSpace(string(main)))
	build.Dir = staged
	output(build, "GOFLAGS=", "GOPROXY=off", "GOWORK=off", "GOTOOLCHAIN=local")
}
