// Package emulators starts Google's emulators of the Cloud Datastore API for
// tests: each of them once for all tests of a binary, since a start takes
// seconds, at the first test that asks for it.
//
//	func TestMain(m *testing.M) { emulators.Main(m) }
//
//	func TestSomething(t *testing.T) {
//		host := emulators.Start(t, emulators.Firestore)
//		…
//	}
//
// Where Java or an emulator is missing the test is skipped. With
// GAESESSION_SDK=require in the environment it fails instead; with
// GAESESSION_SDK=off it is skipped even where they are.
//
// What the tests write is shared: use a namespace per test.
package emulators

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"
)

// Env is the environment variable that says what to do about the SDK:
// "require", "off", or nothing.
const Env = "GAESESSION_SDK"

// startTime is for slow and busy machines; four seconds are usual.
const startTime = 3 * time.Minute

// A Database is one that Google has an emulator of.
type Database struct {
	Name string

	jar  string // below the SDK's folder of platforms
	args []string
	dir  bool // wants a folder of its own, as its last argument
}

const (
	datastoreJar   = "cloud-datastore-emulator/CloudDatastore.jar"
	datastoreClass = "com.google.cloud.datastore.emulator.CloudDatastore"
	firestoreJar   = "cloud-firestore-emulator/cloud-firestore-emulator.jar"
	firestoreClass = "com.google.cloud.datastore.emulator.firestore.CloudFirestore"
)

var (
	// Datastore is the Datastore of old. It answers App Engine's calls as well.
	Datastore = &Database{Name: "datastore", jar: datastoreJar, dir: true,
		args: []string{datastoreClass, "start", "--testing"}}
	// DatastoreFirestore is the same with the limits of Firestore.
	DatastoreFirestore = &Database{Name: "datastore as firestore", jar: datastoreJar, dir: true,
		args: []string{datastoreClass, "start", "--testing", "--firestore_in_datastore_mode"}}
	// Firestore is Firestore in Datastore mode, whose transactions lock what
	// they read.
	Firestore = &Database{Name: "firestore", jar: firestoreJar,
		args: []string{firestoreClass, "start", "--database-mode=datastore-mode"}}

	// All are all there are.
	All = []*Database{Datastore, DatastoreFirestore, Firestore}
)

var running struct {
	sync.Mutex
	emulators map[*Database]*emulator
}

// Main runs the tests of m, ends what was started and exits: the body of a
// TestMain.
func Main(m *testing.M) {
	code := m.Run()
	running.Lock()
	for _, e := range running.emulators {
		if err := e.end(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	running.Unlock()
	os.Exit(code)
}

// Start returns the address of an emulator, host and port, which it starts when
// it is the first to ask.
func Start(tb testing.TB, d *Database) string {
	tb.Helper()
	if os.Getenv(Env) == "off" {
		tb.Skipf("%s=off: not tested on Google's emulator", Env)
	}
	command, err := d.find()
	if err != nil {
		if os.Getenv(Env) == "require" {
			tb.Fatalf("%s=require, but %v", Env, err)
		}
		tb.Skipf("not tested on Google's emulator: %v", err)
	}
	running.Lock()
	defer running.Unlock()
	e := running.emulators[d]
	if e == nil {
		e = &emulator{}
		e.err = e.start(d, command)
		if running.emulators == nil {
			running.emulators = map[*Database]*emulator{}
		}
		running.emulators[d] = e
	}
	if e.err != nil {
		tb.Fatal(e.err)
	}
	return e.address
}

// find returns the command that starts the emulator.
func (d *Database) find() ([]string, error) {
	java, err := exec.LookPath("java")
	if err != nil {
		return nil, errors.New("no java in PATH")
	}
	sdks := []string{"/usr/lib/google-cloud-sdk", "/usr/share/google-cloud-sdk"}
	if gcloud, err := exec.LookPath("gcloud"); err == nil {
		if gcloud, err = filepath.EvalSymlinks(gcloud); err == nil {
			sdks = append(sdks, filepath.Dir(filepath.Dir(gcloud)))
		}
	}
	for _, sdk := range sdks {
		jar := filepath.Join(sdk, "platform", filepath.FromSlash(d.jar))
		if _, err := os.Stat(jar); err == nil {
			return append([]string{java, "-cp", jar}, d.args...), nil
		}
	}
	return nil, fmt.Errorf("no %s in the Google Cloud SDK (gcloud components install %s)", filepath.Base(d.jar), filepath.Dir(d.jar))
}

// emulator is one that was started.
type emulator struct {
	err     error
	address string
	dir     string
	shell   *exec.Cmd
	pipe    io.WriteCloser
}

// script runs a command until the shell's standard input ends, as it does with
// this process, however that ends.
const script = `"$@" </dev/null & pid=$!
read line
kill -KILL $pid
wait $pid`

func (e *emulator) start(d *Database, command []string) error {
	fail := func(err error) error {
		return fmt.Errorf("start the emulator of %s: %w", d.Name, err)
	}
	var err error
	if e.dir, err = os.MkdirTemp("", "emulator"); err != nil {
		return fail(err)
	}
	if e.address, err = freeAddress(); err != nil {
		return fail(err)
	}
	host, port, err := net.SplitHostPort(e.address)
	if err != nil {
		return fail(err)
	}
	command = append(command, "--host="+host, "--port="+port)
	if d.dir {
		command = append(command, filepath.Join(e.dir, "data"))
	}
	log, err := os.Create(filepath.Join(e.dir, "log"))
	if err != nil {
		return fail(err)
	}
	defer log.Close()
	e.shell = exec.Command("/bin/sh", append([]string{"-c", script, "emulator"}, command...)...)
	e.shell.Dir, e.shell.Stdout, e.shell.Stderr = e.dir, log, log
	if e.pipe, err = e.shell.StdinPipe(); err != nil {
		return fail(err)
	}
	if err := e.shell.Start(); err != nil {
		return fail(err)
	}
	client := http.Client{Timeout: time.Second}
	for until := time.Now().Add(startTime); ; time.Sleep(50 * time.Millisecond) {
		res, err := client.Get("http://" + e.address)
		if err == nil {
			_ = res.Body.Close()
			return nil
		}
		if time.Now().After(until) {
			said, _ := os.ReadFile(log.Name())
			return fail(fmt.Errorf("not ready after %v: %w: %s", startTime, err, said))
		}
	}
}

// freeAddress returns an address that nobody listens at.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	port := l.Addr().(*net.TCPAddr).Port
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), l.Close()
}

func (e *emulator) end() error {
	if e.pipe != nil && e.shell.Process != nil {
		_ = e.pipe.Close()
		_ = e.shell.Wait() // says that it was killed
	}
	return os.RemoveAll(e.dir)
}
