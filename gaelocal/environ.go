package gaelocal

import (
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
)

// Environ returns the environment variables, as "name=value", that point an app
// at this server: API_HOST and API_PORT, by which
// google.golang.org/appengine/v2 finds it, GAE_APPLICATION, and what keeps
// appengine.ModuleName, VersionID and InstanceID from asking a metadata server.
// GAE_ENV=localdev makes appengine.IsDevAppServer true, as under Google's own
// development server.
func (s *Server) Environ() []string {
	host, port, err := net.SplitHostPort(s.addr)
	if err != nil { // Start has split this address before
		return nil
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]" // appengine/v2 joins host and port with a colon
	}
	return []string{
		"API_HOST=" + host,
		"API_PORT=" + port,
		"GAE_APPLICATION=" + s.appID,
		"GAE_ENV=localdev",
		"GAE_SERVICE=default",
		"GAE_VERSION=local",
		"GAE_DEPLOYMENT_ID=1",
		"GAE_INSTANCE=local",
	}
}

// Setenv points this process at the server, by setting the variables of
// Environ. The environment belongs to the whole process, so only one server at
// a time can be the one that appengine/v2 finds. restore puts back what was
// there before, so several servers have to be restored in reverse order;
// calling it again does nothing.
func (s *Server) Setenv() (restore func(), err error) {
	type saved struct {
		name, value string
		set         bool
	}
	var before []saved
	var once sync.Once
	restore = func() {
		once.Do(func() {
			for _, v := range before {
				// Neither fails for a name that could be set.
				if v.set {
					_ = os.Setenv(v.name, v.value)
				} else {
					_ = os.Unsetenv(v.name)
				}
			}
		})
	}
	for _, kv := range s.Environ() {
		name, value, _ := strings.Cut(kv, "=")
		old, set := os.LookupEnv(name)
		before = append(before, saved{name, old, set})
		if err := os.Setenv(name, value); err != nil {
			restore()
			return nil, fmt.Errorf("gaelocal: pointing the process at the server: %w", err)
		}
	}
	return restore, nil
}

// TestingT is what [StartForTest] needs of a *testing.T or *testing.B.
type TestingT interface {
	Helper()
	Cleanup(f func())
	Setenv(name, value string)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// StartForTest starts a server for a test, in memory on a free port unless an
// Options says otherwise, and points this process at it: the memcache and
// datastore packages of google.golang.org/appengine/v2 then work with any
// context, such as context.Background(). When the test and its subtests have
// ended, the server is closed and the environment is what it was before.
//
// The environment belongs to the whole process, so the test cannot be parallel,
// nor one of its parents. Where many tests share a server, start it in TestMain:
//
//	server, err := gaelocal.Start(gaelocal.Options{})
//	...
//	_, err = server.Setenv()
//
// It fails the test if the server cannot be started.
func StartForTest(t TestingT, o ...Options) *Server {
	t.Helper()
	if len(o) > 1 {
		t.Fatalf("gaelocal: StartForTest takes one Options, not %d", len(o))
	}
	s, err := Start(append(o, Options{})[0])
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("%v", err)
		}
	})
	for _, kv := range s.Environ() {
		name, value, _ := strings.Cut(kv, "=")
		t.Setenv(name, value)
	}
	return s
}
