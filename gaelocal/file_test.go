package gaelocal_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/appengine/v2/datastore"

	"github.com/gaesession/gaesession/gaelocal"
)

func dataFile(t testing.TB) string { return filepath.Join(t.TempDir(), "sessions.db") }

// withData runs f against a server that keeps its entities in a file.
func withData(t *testing.T, o gaelocal.Options, f func(s *gaelocal.Server, ctx context.Context)) {
	t.Helper()
	s, err := gaelocal.Start(o)
	noError(t, err)
	restore, err := s.Setenv()
	noError(t, err)
	f(s, requestContext(""))
	restore()
	noError(t, s.Close())
}

func TestEntitiesAndIDsSurviveARestart(t *testing.T) {
	o := gaelocal.Options{Data: dataFile(t)}
	var auto *datastore.Key
	var allocated int64
	withData(t, o, func(_ *gaelocal.Server, ctx context.Context) {
		root := datastore.NewKey(ctx, "K", "kept", 0, nil)
		putCounter(t, ctx, root, 7)
		putCounter(t, ctx, datastore.NewKey(ctx, "K", "below", 0, root), 8)
		gone := datastore.NewKey(ctx, "K", "gone", 0, nil)
		putCounter(t, ctx, gone, 1)
		noError(t, datastore.Delete(ctx, gone))
		var err error
		auto, err = datastore.Put(ctx, datastore.NewIncompleteKey(ctx, "K", nil), &counter{9})
		noError(t, err)
		noError(t, datastore.Delete(ctx, auto))
		_, allocated, err = datastore.AllocateIDs(ctx, "K", nil, 10)
		noError(t, err)
	})
	withData(t, o, func(_ *gaelocal.Server, ctx context.Context) {
		keys, err := datastore.NewQuery("K").KeysOnly().GetAll(ctx, nil)
		noError(t, err)
		if got, want := fmt.Sprint(keys), "[/K,kept /K,kept/K,below]"; got != want {
			t.Errorf("after the restart there are %s, want %s", got, want)
		}
		if got := getCounter(t, ctx, keys[0]); got != 7 {
			t.Errorf("the entity has %d, want 7", got)
		}
		again, err := datastore.Put(ctx, datastore.NewIncompleteKey(ctx, "K", nil), &counter{9})
		noError(t, err)
		if again.IntID() == auto.IntID() {
			t.Errorf("id %d was handed out twice", again.IntID())
		}
		low, _, err := datastore.AllocateIDs(ctx, "K", nil, 1)
		noError(t, err)
		if low < allocated {
			t.Errorf("ids from %d were handed out twice", low)
		}
	})
}

func TestWhatWasAnsweredIsInTheFileWhenTheProcessDies(t *testing.T) {
	path := dataFile(t)
	withData(t, gaelocal.Options{Data: path}, func(_ *gaelocal.Server, ctx context.Context) {
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				if _, err := datastore.Put(ctx, datastore.NewKey(ctx, "K", "", int64(i+1), nil), &counter{i}); err != nil {
					t.Error(err)
				}
			}()
		}
		wg.Wait()
		// The file as a crash at this moment leaves it.
		b, err := os.ReadFile(path)
		noError(t, err)
		path += ".crashed"
		noError(t, os.WriteFile(path, b, 0o600))
	})
	withData(t, gaelocal.Options{Data: path}, func(_ *gaelocal.Server, ctx context.Context) {
		n, err := datastore.NewQuery("K").Count(ctx)
		noError(t, err)
		if n != 20 {
			t.Errorf("%d entities are left, want 20", n)
		}
	})
}

func TestApplicationsInOneFileDoNotMeet(t *testing.T) {
	path := dataFile(t)
	withData(t, gaelocal.Options{Data: path, AppID: "one"}, func(_ *gaelocal.Server, ctx context.Context) {
		putCounter(t, ctx, datastore.NewKey(ctx, "K", "n", 0, nil), 1)
	})
	withData(t, gaelocal.Options{Data: path, AppID: "two"}, func(_ *gaelocal.Server, ctx context.Context) {
		if err := datastore.Get(ctx, datastore.NewKey(ctx, "K", "n", 0, nil), &counter{}); err != datastore.ErrNoSuchEntity {
			t.Errorf("Get of the other application's entity: %v, want no such entity", err)
		}
	})
}

func TestADataFileInUseIsNamed(t *testing.T) {
	t.Parallel()
	path := dataFile(t)
	s, err := gaelocal.Start(gaelocal.Options{Data: path})
	noError(t, err)
	_, err = gaelocal.Start(gaelocal.Options{Data: path})
	wantError(t, err, path+" is in use by another process")
	noError(t, s.Close())
	s, err = gaelocal.Start(gaelocal.Options{Data: path})
	noError(t, err)
	noError(t, s.Close())
}

func TestADataFileThatCannotBeMadeIsNamed(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{dir, filepath.Join(dir, "no", "such", "folder.db")} {
		_, err := gaelocal.Start(gaelocal.Options{Data: path})
		wantError(t, err, path)
	}
}

func TestADamagedDataFileIsSaidToBeDamaged(t *testing.T) {
	path := dataFile(t)
	withData(t, gaelocal.Options{Data: path}, func(_ *gaelocal.Server, ctx context.Context) {
		for i := range 100 {
			_, err := datastore.Put(ctx, datastore.NewKey(ctx, "K", "", int64(i+1), nil), &keptEntity{Val: make([]byte, 500)})
			noError(t, err)
		}
		_, err := datastore.Put(ctx, datastore.NewKey(ctx, "K", "", 50, nil), &keptEntity{Val: []byte("marked value")})
		noError(t, err)
	})
	whole, err := os.ReadFile(path)
	noError(t, err)
	refused := 0
	try := func(what string, b []byte) {
		damaged := filepath.Join(t.TempDir(), "damaged.db")
		noError(t, os.WriteFile(damaged, b, 0o600))
		s, err := gaelocal.Start(gaelocal.Options{Data: damaged})
		if err == nil {
			noError(t, s.Close()) // the damage is where nothing is kept
			return
		}
		refused++
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v: more than one line", what, err)
		}
		wantError(t, err, damaged, "damaged")
	}
	for size := 4096; size < len(whole); size += 4096 {
		try(fmt.Sprintf("cut off after %d bytes", size), whole[:size])
	}
	for at := 0; at < len(whole); at += 4096 {
		b := append([]byte(nil), whole...)
		for i := at; i < at+4096; i++ {
			b[i] ^= 0x5a
		}
		try(fmt.Sprintf("page at %d overwritten", at), b)
	}
	if at := bytes.Index(whole, []byte("marked value")); at < 0 {
		t.Error("the value is not in the file")
	} else {
		b := append([]byte(nil), whole...)
		b[at] ^= 1
		before := refused
		if try("one bit of a value changed", b); refused == before {
			t.Error("a changed value was not noticed")
		}
	}
	try("no bbolt file", []byte(strings.Repeat("not a database ", 1000)))
	if refused < 10 {
		t.Errorf("only %d damaged files were refused", refused)
	}
}

// The documentation of Options.Data warns of this.
func TestAFileMadeToDoHarmEndsTheProcess(t *testing.T) {
	path := dataFile(t)
	withData(t, gaelocal.Options{Data: path}, func(_ *gaelocal.Server, ctx context.Context) {
		keys, entities := make([]*datastore.Key, 100), make([]keptEntity, 100)
		for i := range keys {
			keys[i] = datastore.NewKey(ctx, "K", "", int64(i+1), nil)
			entities[i].Val = make([]byte, 500)
		}
		_, err := datastore.PutMulti(ctx, keys, entities)
		noError(t, err)
	})
	// A page begins with its number, 8 bytes, its kind and how many elements it
	// has, 2 bytes each. Elements of a branch are 16 bytes each, from byte 16
	// on; the last 8 name a page, which no other element may do.
	file, err := os.ReadFile(path)
	noError(t, err)
	for page := file; len(page) > 0; page = page[os.Getpagesize():] {
		const branch = 1
		if page[8] == branch && page[10] >= 2 {
			copy(page[16+16+8:16+16+16], page[16+8:16+16])
		}
	}
	noError(t, os.WriteFile(path, file, 0o600))

	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), envServe+"=1", envServeData+"="+path)
	out, err := child.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "panic: ") {
		t.Errorf("the process ends with %v and prints\n%s\nwant a panic; if there is none any more, mend the documentation", err, out)
	}
}
