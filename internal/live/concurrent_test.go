//go:build go1.25

package live

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/gaesession/gaesession/tier"
)

// Goroutines of one request use its sessions in parallel.

// inParallel runs each function in several goroutines, many times.
func inParallel(times int, fs ...func(n int)) {
	var all sync.WaitGroup
	for _, f := range fs {
		for range 4 {
			all.Add(1)
			go func() {
				defer all.Done()
				for n := range times {
					f(n)
				}
			}()
		}
	}
	all.Wait()
}

// check is must for a goroutine that is not the test's.
func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

// A session that is there is found by whoever looks for it, whatever others do.
func TestALiveSessionIsFoundWhateverRunsInParallel(t *testing.T) {
	const rounds = 40
	for _, async := range []bool{false, true} {
		t.Run(fmt.Sprint("async ", async), func(t *testing.T) {
			s := created(t, "a=1")
			for range rounds {
				u := s.request(t, func(o *options) { o.Async = async })
				find := func(int) {
					mine := u.with(u.copy)
					if err := mine.open(); err != nil || !mine.copy.Exists() {
						t.Errorf("open: %v; it knows %q", err, mine.about())
					}
				}
				findAgain := func(int) {
					mine := u.with(u.copy.Again())
					if err := mine.open(); err != nil || !mine.copy.Exists() {
						t.Errorf("open of another copy: %v; it knows %q", err, mine.about())
					}
				}
				save := func(n int) {
					mine := u.with(u.copy.Again())
					check(t, mine.open())
					check(t, mine.set(fmt.Sprintf("n%d=1", n)).save())
				}
				add := func(int) { check(t, u.copy.Add(false)) }
				settle := func(int) { _ = u.copy.Settle(u.ctx) }
				look := func(int) { _, _, _ = u.about(), u.copy.ID(), u.copy.Ends() }
				inParallel(3, find, findAgain, save, add, settle, look)
				expect(t, "others see", s.seen(t, id), "a=1 n0=1 n1=1 n2=1")
			}
			drain(t)
		})
	}
}

// Once somebody has removed it, nobody finds it, and no save brings it back.
func TestARemovedSessionIsGoneForAllOfTheRequest(t *testing.T) {
	for range 60 {
		s := created(t, "a=1")
		u := s.request(t, nil)
		must(t, u.open())
		var removal sync.Once
		gone := make(chan bool)
		isGone := func() bool {
			select {
			case <-gone:
				return true
			default:
				return false
			}
		}
		inParallel(4,
			func(n int) {
				if n == 2 {
					removal.Do(func() {
						check(t, u.copy.Remove(u.ctx))
						close(gone)
					})
				}
			},
			func(n int) {
				mine, was := u.with(u.copy.Clone()), isGone()
				err := mine.set(fmt.Sprintf("n%d=1", n)).save()
				if was && !errors.Is(err, tier.ErrRemoved) {
					t.Errorf("a save after the removal: %v", err)
				}
			},
			func(int) {
				mine, was := u.with(u.copy.Again()), isGone()
				if _ = mine.open(); was && mine.copy.Exists() {
					t.Error("it is found after the removal")
				}
			},
		)
		expect(t, "the backup has", s.kept(id), "removed")
		expect(t, "others see", s.seen(t, id), "-")
	}
}

// It moves while others save: all of it is under the new id.
func TestASessionMovesWhileOthersSaveIt(t *testing.T) {
	for range 60 {
		s := created(t, "a=1")
		u := s.request(t, nil)
		must(t, u.open())
		var once sync.Once
		inParallel(4,
			func(n int) {
				if n == 2 {
					once.Do(func() {
						mine := u.with(u.copy.Clone())
						check(t, mine.copy.Regenerate("new"))
						check(t, mine.save())
					})
				}
			},
			func(n int) {
				mine := u.with(u.copy.Clone())
				check(t, mine.set(fmt.Sprintf("n%d=1", n)).save())
			},
			func(int) {
				mine := u.with(u.copy.Again())
				if err := mine.open(); err != nil || !mine.copy.Exists() {
					t.Errorf("open: %v; it knows %q", err, mine.about())
				}
			},
		)
		expect(t, "its id", u.copy.ID(), "new")
		expect(t, "under the old id", s.seen(t, id), "-")
		expect(t, "under the new id", s.seen(t, "new"), "a=1 n0=1 n1=1 n2=1 n3=1")
	}
}

func TestRequestsInParallelLoseNothing(t *testing.T) {
	s := created(t, "a=1")
	var mu sync.Mutex
	names := 1
	inParallel(10, func(n int) {
		u := s.request(t, func(o *options) { o.Async = n%2 == 0 })
		check(t, u.open())
		mu.Lock()
		name := fmt.Sprintf("n%d", names)
		names++
		mu.Unlock()
		check(t, u.set(name+"=1").save())
	}, func(int) {
		u := s.request(t, nil)
		check(t, u.open())
		time.Sleep(time.Millisecond)
		check(t, u.close())
	})
	drain(t)
	s.cache.Flush()
	expect(t, "attributes", len(s.opened(t).attrs), names)
}
