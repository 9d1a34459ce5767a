package gaelocal_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
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
		path := dataFile(t)
		noError(t, os.WriteFile(path, b, 0o600))
		s, err := gaelocal.Start(gaelocal.Options{Data: path})
		if err == nil {
			noError(t, s.Close()) // the damage is where nothing is kept
			return
		}
		refused++
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v: more than one line", what, err)
		}
		wantError(t, err, "the data file "+path+" is damaged")
	}
	for size := 2 * 4096; size < len(whole); size += 4096 {
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

func pageKind(page []byte) uint16 { return binary.NativeEndian.Uint16(page[8:]) }

func pageElement(page []byte, i int) []byte { return page[16+16*i : 32+16*i] }

const (
	branchPage = 1
	leafPage   = 2
)

// Each of them, alone, would make bbolt panic or never end: when it opens the
// file, or later.
func TestADataFileMadeToDoHarmIsAnError(t *testing.T) {
	whole := dataFile(t)
	withData(t, gaelocal.Options{Data: whole}, func(_ *gaelocal.Server, ctx context.Context) {
		keys, entities := make([]*datastore.Key, 300), make([]keptEntity, 300)
		for i := range keys { // long keys, so that there are branches below branches
			keys[i] = datastore.NewKey(ctx, "K", fmt.Sprintf("%0400d", i), 0, nil)
			entities[i].Val = make([]byte, 500)
		}
		_, err := datastore.PutMulti(ctx, keys, entities)
		noError(t, err)
		_, _, err = datastore.AllocateIDs(ctx, "K", nil, 10)
		noError(t, err)
	})
	healthy, err := os.ReadFile(whole)
	noError(t, err)
	size := os.Getpagesize()
	// branches calls f for every page of branches whose children are of a kind.
	branches := func(file []byte, kind uint16, f func(page, child []byte)) {
		for at := 2 * size; at < len(file); at += size {
			page := file[at : at+size]
			if pageKind(page) != branchPage {
				continue
			}
			child := file[binary.NativeEndian.Uint64(pageElement(page, 0)[8:])*uint64(size):]
			if pageKind(child) == kind {
				f(page, child)
			}
		}
	}
	// small calls f for the page of the bucket of ids, which lies in the bucket's
	// element, behind a header of 16 bytes.
	ids := append([]byte("ids"), make([]byte, 16)...)
	small := func(file []byte, f func(page []byte)) {
		for at := 0; ; {
			i := bytes.Index(file[at:], ids)
			if i < 0 {
				return
			}
			at += i + len(ids)
			f(file[at:])
		}
	}
	for name, spoil := range map[string]func(file []byte){
		"a page in two places": func(file []byte) {
			branches(file, leafPage, func(page, _ []byte) { copy(pageElement(page, 1)[8:], pageElement(page, 0)[8:]) })
		},
		"a page below itself": func(file []byte) {
			branches(file, leafPage, func(page, _ []byte) { copy(pageElement(page, 0)[8:], page[:8]) })
		},
		"leaves on two levels": func(file []byte) {
			branches(file, branchPage, func(page, child []byte) { copy(pageElement(page, 0)[8:], pageElement(child, 0)[8:]) })
		},
		"a page without elements": func(file []byte) {
			branches(file, leafPage, func(_, child []byte) { binary.NativeEndian.PutUint16(child[10:], 0) })
		},
		"a key without bytes": func(file []byte) {
			small(file, func(page []byte) { binary.NativeEndian.PutUint32(pageElement(page, 0)[8:], 0) })
		},
		"a bucket whose page has a number": func(file []byte) {
			small(file, func(page []byte) { page[0] = 2 })
		},
		"a bucket in such a page": func(file []byte) {
			small(file, func(page []byte) {
				binary.NativeEndian.PutUint16(page[10:], 1)
				e := pageElement(page, 0)
				at := binary.NativeEndian.Uint32(e[4:])
				binary.NativeEndian.PutUint32(e, 1)       // a bucket
				binary.NativeEndian.PutUint32(e[8:], 1)   // bytes of the key
				binary.NativeEndian.PutUint32(e[12:], 32) // bytes of the value
				value := page[16+at+1:][:32]
				clear(value)
				binary.NativeEndian.PutUint16(value[16+8:], leafPage)
			})
		},
		"more pages than bytes": func(file []byte) {
			for _, page := range [][]byte{file, file[size:]} {
				pages := page[16+40:]
				binary.NativeEndian.PutUint64(pages, binary.NativeEndian.Uint64(pages)+1000)
			}
			mend(file)
		},
	} {
		file := bytes.Clone(healthy)
		spoil(file)
		if bytes.Equal(file, healthy) {
			t.Errorf("%s: the file is the same", name)
		}
		path := dataFile(t)
		noError(t, os.WriteFile(path, file, 0o600))
		s, err := gaelocal.Start(gaelocal.Options{Data: path})
		if err == nil {
			noError(t, s.Close())
		}
		wantError(t, err, "the data file "+path+" is damaged")
	}
}
