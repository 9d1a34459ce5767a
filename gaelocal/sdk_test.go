package gaelocal_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/appengine/v2"
	"google.golang.org/appengine/v2/memcache"

	"github.com/gaesession/gaesession/gaelocal"
	"github.com/gaesession/gaesession/internal/verify/sdktest"
)

var allScripts = flag.Bool("sdk.all", false, "compare the slow scripts with Google's server as well")

// slowScripts take Google's server half a second to several seconds each.
var slowScripts = map[string]bool{
	"datastore/allocate": true, "datastore/batches": true, "datastore/keys": true, "datastore/namespaces": true,
	"datastore/query large": true, "datastore/query orders": true, "datastore/query projection": true,
	"datastore/query types": true, "datastore/sizes": true, "datastore/transaction limits": true,
}

var updateAnswers = flag.Bool("sdk.update", false, "write the answers of Google's server to "+answersFile)

// answersFile has the answers of Google's server to every script, so that
// gaelocal can be compared with them where no SDK is installed.
var answersFile = filepath.Join("testdata", "sdk_answers.txt")

func TestMain(m *testing.M) {
	if os.Getenv(envServe) != "" {
		serve()
	}
	sdktest.Main(m)
}

// google is Google's server; without an SDK, or with -short, the test is
// skipped.
func google(tb testing.TB) side {
	tb.Helper()
	if testing.Short() {
		tb.Skip("-short: not compared with Google's server")
	}
	return side{"google", sdktest.Start(tb).Context}
}

// local is a gaelocal server of the test's own.
func local(tb testing.TB) side {
	tb.Helper()
	gaelocal.StartForTest(tb, gaelocal.Options{AppID: sdktest.AppID})
	return side{"gaelocal", func(namespace ...string) context.Context {
		ctx := context.Background()
		for _, name := range namespace {
			var err error
			if ctx, err = appengine.Namespace(ctx, name); err != nil {
				tb.Fatal(err)
			}
		}
		return ctx
	}}
}

func scripts() map[string]func(*script) {
	all := map[string]func(*script){}
	for _, part := range []map[string]func(*script){memcacheScripts, datastoreScripts} {
		for name, run := range part {
			all[name] = run
		}
	}
	return all
}

// play runs a script from an empty Memcache, in the script's namespace.
func play(tb testing.TB, side side, name string, run func(*script)) []string {
	tb.Helper()
	s := newScript(side, strings.Map(func(r rune) rune {
		if r == '/' || r == ' ' {
			return '-'
		}
		return r
	}, name))
	if err := memcache.Flush(s.ctx()); err != nil {
		tb.Fatalf("flush %s: %v", side.name, err)
	}
	run(s)
	return s.notes
}

func TestAnswersAreThoseOfGooglesServer(t *testing.T) {
	want, err := readAnswers()
	if err != nil {
		t.Fatal(err)
	}
	side := local(t)
	all := scripts()
	for _, name := range sortedNames(all) {
		t.Run(name, func(t *testing.T) {
			compare(t, "gaelocal", play(t, side, name, all[name]), "google", want[name])
		})
	}
	for _, d := range differences {
		if _, ok := usedDifferences.Load(d.name); !ok {
			t.Errorf("the difference %q is gone: take it from the list and the package documentation", d.name)
		}
	}
}

func TestGooglesServerAnswersAsRecorded(t *testing.T) {
	side := google(t)
	var record bytes.Buffer
	want, err := readAnswers()
	if err != nil && !*updateAnswers {
		t.Fatal(err)
	}
	all := scripts()
	for _, name := range sortedNames(all) {
		t.Run(name, func(t *testing.T) {
			if slowScripts[name] && !*allScripts && !*updateAnswers {
				t.Skip("slow; -sdk.all runs it")
			}
			got := play(t, side, name, all[name])
			fmt.Fprintf(&record, "# %s\n", name)
			for _, note := range got {
				fmt.Fprintln(&record, note)
			}
			if !*updateAnswers {
				compare(t, "google", got, "recorded", want[name])
			}
		})
	}
	if *updateAnswers {
		if err := os.MkdirAll(filepath.Dir(answersFile), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(answersFile, record.Bytes(), 0o666); err != nil {
			t.Fatal(err)
		}
	}
}

// readAnswers returns the recorded notes of every script.
func readAnswers() (map[string][]string, error) {
	text, err := os.ReadFile(answersFile)
	if err != nil {
		return nil, fmt.Errorf("recorded answers: %w", err)
	}
	answers := map[string][]string{}
	name := ""
	for _, line := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
		if title, ok := strings.CutPrefix(line, "# "); ok {
			name = title
			answers[name] = nil
			continue
		}
		answers[name] = append(answers[name], line)
	}
	return answers, nil
}
