package gaelocal_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
	"google.golang.org/appengine/v2/datastore"

	"github.com/gaesession/gaesession/gaelocal"
)

var damages = flag.Int("damages", 300, "how many damaged data files are opened")

// boltFile writes a bbolt file with one bucket for each size, which has as many
// keys, and one more with a bucket inside.
func boltFile(t *testing.T, rng *rand.Rand, sizes ...int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "data")
	withBolt(t, path, func(tx *bolt.Tx) error {
		for i, size := range sizes {
			b, err := tx.CreateBucketIfNotExists(fmt.Appendf(nil, "bucket %d", i))
			if err != nil {
				return err
			}
			for range size {
				if err := b.Put(boltKey(rng, size), boltValue(rng)); err != nil {
					return err
				}
			}
		}
		b, err := tx.CreateBucketIfNotExists([]byte("outer"))
		if err == nil {
			_, err = b.CreateBucketIfNotExists([]byte("inner"))
		}
		return err
	})
	return path
}

func boltKey(rng *rand.Rand, size int) []byte {
	n := rng.IntN(2 * size)
	return fmt.Appendf(nil, "key %d %s", n, strings.Repeat("k", n%50))
}

func boltValue(rng *rand.Rand) []byte {
	size := rng.IntN(300)
	if rng.IntN(20) == 0 {
		size *= 50 // takes several pages
	}
	return bytes.Repeat([]byte{byte(size)}, size)
}

func withBolt(t *testing.T, path string, f func(*bolt.Tx) error) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoFreelistSync: true, NoSync: true, NoGrowSync: true, FreelistType: bolt.FreelistMapType})
	noError(t, err)
	noError(t, db.Update(f))
	noError(t, db.Close())
}

// change puts and deletes keys in every bucket.
func change(rng *rand.Rand, tx *bolt.Tx, n int) error {
	return tx.ForEach(func(_ []byte, b *bolt.Bucket) error {
		if b == nil { // a value, by damage
			return nil
		}
		size := b.Stats().KeyN + 1
		for range n {
			key := boltKey(rng, size)
			if rng.IntN(3) > 0 {
				key, _ = b.Cursor().Seek(key)
			}
			var err error
			switch {
			case key == nil || b.Bucket(key) != nil:
			case rng.IntN(2) == 0:
				err = b.Delete(bytes.Clone(key))
			default:
				err = b.Put(bytes.Clone(key), boltValue(rng))
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func checkPages(b []byte) error {
	return gaelocal.CheckPages(bytes.NewReader(b), int64(len(b)), os.Getpagesize())
}

func TestWhatBoltWritesIsHealthy(t *testing.T) {
	t.Parallel()
	for seed := range uint64(2) {
		rng := rand.New(rand.NewPCG(seed, 1))
		path := boltFile(t, rng, 0, 3, 100, 1000)
		for i := range 40 {
			n := rng.IntN(1 << rng.IntN(10))
			withBolt(t, path, func(tx *bolt.Tx) error {
				if i%20 == 19 { // nearly nothing is left
					return tx.ForEach(func(_ []byte, b *bolt.Bucket) error {
						return b.ForEach(func(k, v []byte) error {
							if v == nil || rng.IntN(100) == 0 {
								return nil
							}
							return b.Delete(k)
						})
					})
				}
				return change(rng, tx, n)
			})
			b, err := os.ReadFile(path)
			noError(t, err)
			if err := checkPages(b); err != nil {
				t.Fatalf("seed %d, transaction %d: %v", seed, i, err)
			}
		}
	}
}

// A file that bbolt has written with its free list is healthy, too.
func TestAFreeListIsHealthyUnlessItHasPagesInUse(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	path := boltFile(t, rng, 2000)
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoSync: true})
	noError(t, err)
	for range 3 {
		noError(t, db.Update(func(tx *bolt.Tx) error { return change(rng, tx, 500) }))
	}
	noError(t, db.Close())
	whole, err := os.ReadFile(path)
	noError(t, err)
	if err := checkPages(whole); err != nil {
		t.Error(err)
	}
	const listKind = 16
	lists := 0
	for page := os.Getpagesize(); page < len(whole); page += os.Getpagesize() {
		if binary.NativeEndian.Uint16(whole[page+8:]) != listKind || binary.NativeEndian.Uint16(whole[page+10:]) == 0 {
			continue
		}
		b := bytes.Clone(whole)
		binary.NativeEndian.PutUint64(b[page+16:], 1)
		if checkPages(b) != nil {
			lists++
		}
	}
	if lists != 1 { // the others are of earlier transactions
		t.Errorf("%d free lists with a page in use were refused, want 1", lists)
	}
}

// damage changes a few bits, more often where a page says what it has.
// Sometimes the checksums of the meta pages are made to fit.
func damage(rng *rand.Rand, b []byte) []byte {
	b = bytes.Clone(b)
	for range []int{1, 3, 20}[rng.IntN(3)] {
		at := rng.IntN(len(b))
		if rng.IntN(2) == 0 {
			at = at/os.Getpagesize()*os.Getpagesize() + rng.IntN(80)
		}
		if rng.IntN(10) == 0 {
			at = rng.IntN(2)*os.Getpagesize() + rng.IntN(80)
		}
		b[at] ^= 1 << rng.IntN(8)
	}
	if rng.IntN(2) == 0 {
		mend(b)
	}
	return b
}

// oddPages reports whether a meta page names another size of pages. bbolt goes
// by that, and then the file is another one.
func oddPages(b []byte) bool {
	for _, page := range [][]byte{b, b[os.Getpagesize():]} {
		if binary.NativeEndian.Uint32(page[16+8:]) != uint32(os.Getpagesize()) {
			return true
		}
	}
	return false
}

// mend gives the meta pages checksums that fit.
func mend(b []byte) {
	for _, page := range [][]byte{b, b[os.Getpagesize():]} {
		sum := fnv.New64a()
		_, _ = sum.Write(page[16 : 16+56]) // never fails
		binary.NativeEndian.PutUint64(page[16+56:], sum.Sum64())
	}
}

// bbolt panics when it meets a file that the check should have refused, in part
// on goroutines of its own.
func TestBoltTakesWhatTheCheckLetsPass(t *testing.T) {
	t.Parallel()
	for seed := range uint64(5) {
		rng := rand.New(rand.NewPCG(seed, 3))
		path := boltFile(t, rng, 0, 3, 40, 400)
		withBolt(t, path, func(tx *bolt.Tx) error { return change(rng, tx, 30) })
		whole, err := os.ReadFile(path)
		noError(t, err)
		passed := 0
		for i := range *damages / 5 {
			b := damage(rng, whole)
			if oddPages(b) || checkPages(b) != nil {
				continue
			}
			passed++
			noError(t, os.WriteFile(path, b, 0o600))
			for range 2 {
				withBolt(t, path, func(tx *bolt.Tx) error { return change(rng, tx, 100) })
			}
			b, err := os.ReadFile(path)
			noError(t, err)
			if err := checkPages(b); err != nil {
				t.Fatalf("seed %d: damage %d passed, and the next transactions made it worse: %v", seed, i, err)
			}
		}
		t.Logf("%d of %d passed", passed, *damages/5)
	}
}

func TestAFileWithFlippedBitsOpensOrIsAnError(t *testing.T) {
	path := dataFile(t)
	withData(t, gaelocal.Options{Data: path}, func(_ *gaelocal.Server, ctx context.Context) {
		for i := range 20 {
			_, err := datastore.Put(ctx, datastore.NewKey(ctx, "K", "", int64(i+1), nil), &keptEntity{Val: make([]byte, 1000)})
			noError(t, err)
		}
	})
	whole, err := os.ReadFile(path)
	noError(t, err)
	rng := rand.New(rand.NewPCG(1, 5))
	opened := 0
	for range *damages / 5 {
		noError(t, os.WriteFile(path, damage(rng, whole), 0o600))
		s, err := gaelocal.Start(gaelocal.Options{Data: path})
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %v", err)
			}
			continue
		}
		opened++
		noError(t, s.Close())
	}
	t.Logf("%d of %d opened", opened, *damages/5)
}
