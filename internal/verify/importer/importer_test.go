package importer

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"

	"github.com/gaesession/gaesession/internal/verify/emulators"
)

const root = "github.com/gaesession/gaesession"

func TestMain(m *testing.M) { emulators.Main(m) }

// The go command works for each importer as it does for a user, but finds the
// released modules in a proxy that has this working tree as their release.
func TestAnImporterOfOneModuleStoresAndLoadsASession(t *testing.T) {
	r := newRelease(t)
	env := r.env(t)
	for _, mod := range r.modules {
		name := path.Base(mod.path)
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, source := range map[string]string{"main.go": name + ".go", "visits.go": "visits.go"} {
				text, err := os.ReadFile(filepath.Join("testdata", source))
				if err != nil {
					t.Fatal(err)
				}
				write(t, filepath.Join(dir, file), text)
			}
			// Of other modules it gets what the repository tests with.
			write(t, filepath.Join(dir, "go.sum"), r.file(t, path.Join(mod.dir, "go.sum")))
			run(t, dir, env, "go", "mod", "init", "example.com/importer")
			run(t, dir, env, "go", "get", mod.path+"@"+r.version)
			run(t, dir, env, "go", "mod", "tidy")
			run(t, dir, env, "go", "build", "-o", "app", ".")
			if name == "clouddatastore" {
				env = append(env, "DATASTORE_EMULATOR_HOST="+emulators.Start(t, emulators.Firestore))
			}
			if got := run(t, dir, env, "./app"); got != "Visits: 3\n" {
				t.Errorf("after three visits the app says %q", got)
			}
		})
	}
}

// go install refuses a module with replace directives.
func TestTheCommandCanBeInstalled(t *testing.T) {
	r := newRelease(t)
	bin := t.TempDir()
	run(t, bin, append(r.env(t), "GOBIN="+bin), "go", "install", root+"/cmd/gaelocal@"+r.version)
	if _, err := exec.LookPath(filepath.Join(bin, "gaelocal")); err != nil {
		t.Error(err)
	}
}

func TestReleasedModulesRequireEachOtherAtTheReleaseInTheChangelog(t *testing.T) {
	r := newRelease(t)
	for _, mod := range r.modules {
		for _, require := range mod.file.Require {
			if ours(require.Mod.Path) && require.Mod.Version != r.version {
				t.Errorf("%s/go.mod requires %s, but the newest release in CHANGELOG.md is %s", mod.dir, require.Mod, r.version)
			}
		}
	}
}

// A release is the working tree, as it would be if it were committed and tagged
// with the newest version in CHANGELOG.md.
type release struct {
	repo     string // folder of a clone
	revision string
	version  string
	modules  []released
}

// released is a module that others can import.
type released struct {
	path, dir string
	file      *modfile.File
}

func newRelease(t *testing.T) *release {
	t.Helper()
	if testing.Short() {
		t.Skip("runs the go command for long")
	}
	top := line(t, ".", "git", "rev-parse", "--show-toplevel")
	r := &release{repo: filepath.Join(t.TempDir(), "clone")} // of a linked working tree zip can make nothing
	run(t, top, nil, "git", "clone", "-q", "--shared", "--no-checkout", top, r.repo)
	// A commit of what git tracks, on no branch, unless that is HEAD.
	if r.revision = line(t, top, "git", "stash", "create"); r.revision == "" {
		r.revision = line(t, top, "git", "rev-parse", "HEAD")
	}
	heading := regexp.MustCompile(`(?m)^## (\d+\.\d+\.\d+)`).FindSubmatch(r.file(t, "CHANGELOG.md"))
	if heading == nil {
		t.Fatal("CHANGELOG.md has no release")
	}
	r.version = "v" + string(heading[1])
	for _, name := range strings.Fields(run(t, r.repo, nil, "git", "ls-tree", "-r", "--name-only", r.revision)) {
		folders := strings.Split(path.Dir(name), "/")
		unreleased := func(f string) bool { return f == "internal" || strings.HasPrefix(f, "_") }
		if path.Base(name) != "go.mod" || slices.ContainsFunc(folders, unreleased) {
			continue
		}
		file, err := modfile.Parse(name, r.file(t, name), nil)
		if err != nil {
			t.Fatal(err)
		}
		r.modules = append(r.modules, released{file.Module.Mod.Path, path.Dir(name), file})
	}
	return r
}

// file returns what the release has in a file.
func (r *release) file(t *testing.T, name string) []byte {
	t.Helper()
	return []byte(run(t, r.repo, nil, "git", "show", r.revision+":"+name))
}

// env returns the environment of an importer: with a proxy that has the release,
// and without what the go command already knows.
func (r *release) env(t *testing.T) []string {
	t.Helper()
	proxy := t.TempDir()
	for _, mod := range r.modules {
		escaped, err := module.EscapePath(mod.path)
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(proxy, filepath.FromSlash(escaped), "@v")
		if err := os.MkdirAll(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		info, err := json.Marshal(map[string]any{"Version": r.version, "Time": time.Now().UTC()})
		if err != nil {
			t.Fatal(err)
		}
		subdir := mod.dir
		if subdir == "." {
			subdir = ""
		}
		var files bytes.Buffer
		if err := zip.CreateFromVCS(&files, module.Version{Path: mod.path, Version: r.version}, r.repo, r.revision, subdir); err != nil {
			t.Fatal(err)
		}
		at := filepath.Join(dir, r.version)
		write(t, filepath.Join(dir, "list"), []byte(r.version+"\n"))
		write(t, at+".info", info)
		write(t, at+".mod", r.file(t, path.Join(mod.dir, "go.mod")))
		write(t, at+".zip", files.Bytes())
	}
	return []string{
		"GOPROXY=file://" + filepath.ToSlash(proxy) + "," + line(t, ".", "go", "env", "GOPROXY"),
		"GONOSUMDB=" + root, // no checksum database knows the release
		"GOMODCACHE=" + moduleCache(t),
		"GOFLAGS=-mod=mod -modcacherw -trimpath", // trimmed, the build cache knows the packages wherever they are
		"GOWORK=off",
	}
}

// moduleCache returns a module cache that has none of the released modules. All
// others are in the usual one, which it links to.
func moduleCache(t *testing.T) string {
	t.Helper()
	usual, dir := line(t, ".", "go", "env", "GOMODCACHE"), t.TempDir()
	owner := path.Dir(root)
	kept := []string{".", "github.com", "cache", "cache/download", "cache/download/github.com"}
	skipped := []string{owner, "cache/download/" + owner}
	for _, folder := range kept {
		entries, err := os.ReadDir(filepath.Join(usual, folder))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(dir, folder), 0o777); err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			name := path.Join(folder, entry.Name())
			if slices.Contains(kept, name) || slices.Contains(skipped, name) {
				continue
			}
			if err := os.Symlink(filepath.Join(usual, name), filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

func ours(path string) bool { return path == root || strings.HasPrefix(path, root+"/") }

func write(t *testing.T, name string, text []byte) {
	t.Helper()
	if err := os.WriteFile(name, text, 0o666); err != nil {
		t.Fatal(err)
	}
}

// line returns the line that a command writes.
func line(t *testing.T, dir string, name string, args ...string) string {
	t.Helper()
	return strings.TrimSpace(run(t, dir, nil, name, args...))
}

// run returns what a command writes to its standard output.
func run(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), name, args...)
	command.Dir, command.Env = dir, append(os.Environ(), env...)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	out, err := command.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", command, err, out, &stderr)
	}
	return string(out)
}
