//go:build go1.25

package tier_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gaesession/gaesession/tier"
)

var errFailed = errors.New("failed")

// A heap has keys to purge, a page at a time. Its calls take a time, and fail as
// a test says.
type heap struct {
	pages    [][]int
	findTime time.Duration
	findErr  func(call int) error

	removeTime time.Duration
	removeErr  func(call int) error

	mu       sync.Mutex
	finds    int
	removes  int
	now, top int // removes under way, and the most that were at once
	removed  []int
}

// pages are that many keys in each of n pages.
func pages(n, keys int) (p [][]int) {
	for i := range n {
		page := make([]int, keys)
		for j := range page {
			page[j] = i*keys + j
		}
		p = append(p, page)
	}
	return p
}

func (h *heap) find(ctx context.Context) ([]int, bool, error) {
	h.finds++
	if err := sleep(ctx, h.findTime); err != nil {
		return nil, true, err
	}
	if h.findErr != nil {
		if err := h.findErr(h.finds); err != nil {
			return nil, true, err
		}
	}
	page := h.pages[0]
	h.pages = h.pages[1:]
	return page, len(h.pages) == 0, nil
}

func (h *heap) remove(ctx context.Context, keys []int) error {
	h.mu.Lock()
	h.removes++
	h.now++
	h.top = max(h.top, h.now)
	call := h.removes
	h.mu.Unlock()
	err := sleep(ctx, h.removeTime)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now--
	if err == nil && h.removeErr != nil {
		err = h.removeErr(call)
	}
	if err == nil {
		h.removed = append(h.removed, keys...)
	}
	return err
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// purge purges a heap, and checks that what is said to be deleted is.
func (h *heap) purge(t *testing.T, ctx context.Context) (tier.Purged, error) {
	t.Helper()
	done, err := tier.Purge(ctx, h.find, h.remove)
	if done.Deleted != len(h.removed) {
		t.Errorf("%d deleted, it says, and %d are", done.Deleted, len(h.removed))
	}
	if h.now > 0 {
		t.Errorf("%d calls are under way when it has returned", h.now)
	}
	return done, err
}

// failing makes the calls between two of them fail, inclusively.
func failing(from, to int, err error) func(call int) error {
	return func(call int) error {
		if from <= call && call <= to {
			return err
		}
		return nil
	}
}

func TestAPurgeDeletesEveryPageFourBatchesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		h := &heap{pages: append(pages(3, 1500), nil), removeTime: time.Second}
		done, err := h.purge(t, t.Context())
		if want := (tier.Purged{Completed: true, Deleted: 4500}); done != want || err != nil {
			t.Errorf("got %+v, %v, want %+v", done, err, want)
		}
		slices.Sort(h.removed)
		if h.removed = slices.Compact(h.removed); len(h.removed) != 4500 || h.removes != 9 {
			t.Errorf("%d keys were deleted in %d calls, want 4500 in 9", len(h.removed), h.removes)
		}
		if took := time.Since(begun); h.top != 4 || took != 3*time.Second {
			t.Errorf("%d deletes at once, %v, want 4 and 3s", h.top, took)
		}
	})
}

func TestAPurgeOfNothingIsComplete(t *testing.T) {
	h := &heap{pages: pages(1, 0)}
	if done, err := h.purge(t, t.Context()); done != (tier.Purged{Completed: true}) || err != nil || h.removes > 0 {
		t.Errorf("got %+v, %v after %d deletes, want it completed without one", done, err, h.removes)
	}
}

func TestAPurgeStopsAfterEightMinutesWithoutAnError(t *testing.T) {
	for name, h := range map[string]*heap{
		"slow queries":                     {pages: pages(20, 1500), findTime: time.Minute},
		"slow deletes":                     {pages: pages(20, 1500), removeTime: 90 * time.Second},
		"a call that does not end in time": {pages: pages(1, 10), removeTime: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun := time.Now()
				done, err := h.purge(t, t.Context())
				if took := time.Since(begun); done.Completed || err != nil || took != 8*time.Minute {
					t.Errorf("got %+v, %v after %v, want it incomplete after 8m", done, err, took)
				}
				if name != "a call that does not end in time" && done.Deleted == 0 {
					t.Error("nothing was deleted")
				}
			})
		})
	}
}

func TestAPurgeStopsWithItsContextWithoutAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := false
		h := &heap{pages: pages(1, 1500), removeErr: func(int) error {
			if ended {
				return errFailed
			}
			ended = true
			cancel()
			return nil
		}}
		if done, err := h.purge(t, ctx); done != (tier.Purged{Deleted: 500}) || err != nil {
			t.Errorf("got %+v, %v, want 500 deleted", done, err)
		}
	})
}

// What was done when the context ended is done.
func TestAPurgeThatEndsWithItsContextIsComplete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		h := &heap{pages: pages(1, 10), removeErr: func(int) error { cancel(); return nil }}
		if done, err := h.purge(t, ctx); done != (tier.Purged{Completed: true, Deleted: 10}) || err != nil {
			t.Errorf("got %+v, %v, want it completed", done, err)
		}
	})
}

func TestACallOfAPurgeIsTriedThreeTimesUnlessItIsRejected(t *testing.T) {
	for name, test := range map[string]struct {
		heap    *heap
		want    error
		done    tier.Purged
		finds   int
		removes int
	}{
		"a query that fails twice":    {&heap{findErr: failing(1, 2, errFailed)}, nil, tier.Purged{Completed: true, Deleted: 10}, 3, 1},
		"a query that keeps failing":  {&heap{findErr: failing(1, 9, errFailed)}, errFailed, tier.Purged{}, 3, 0},
		"a query that is rejected":    {&heap{findErr: failing(1, 9, tier.ErrRejected)}, tier.ErrRejected, tier.Purged{}, 1, 0},
		"a delete that fails twice":   {&heap{removeErr: failing(1, 2, errFailed)}, nil, tier.Purged{Completed: true, Deleted: 10}, 1, 3},
		"a delete that keeps failing": {&heap{removeErr: failing(1, 9, errFailed)}, errFailed, tier.Purged{}, 1, 3},
		"a delete that is rejected":   {&heap{removeErr: failing(1, 9, tier.ErrRejected)}, tier.ErrRejected, tier.Purged{}, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := test.heap
				h.pages = pages(1, 10)
				done, err := h.purge(t, t.Context())
				if !errors.Is(err, test.want) || done != test.done {
					t.Errorf("got %+v, %v, want %+v, %v", done, err, test.done, test.want)
				}
				if h.finds != test.finds || h.removes != test.removes {
					t.Errorf("%d queries and %d deletes, want %d and %d", h.finds, h.removes, test.finds, test.removes)
				}
			})
		})
	}
}

// The others end, and are counted; nothing more is begun.
func TestADeleteThatKeepsFailingEndsThePurge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &heap{pages: pages(50, 1500), findTime: time.Second, removeErr: func(call int) error {
			if call > 5 {
				return errFailed
			}
			return nil
		}}
		done, err := h.purge(t, t.Context())
		if !errors.Is(err, errFailed) || done != (tier.Purged{Deleted: 2500}) {
			t.Errorf("got %+v, %v, want 2500 deleted and an error", done, err)
		}
		if h.finds > 4 {
			t.Errorf("%d pages were asked for, want no more after the failure", h.finds)
		}
	})
}

func TestNoDeleteBeginsAfterOneHasFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &heap{pages: pages(1, 10_000), removeTime: time.Second, removeErr: failing(1, 1, tier.ErrRejected)}
		if done, err := h.purge(t, t.Context()); !errors.Is(err, tier.ErrRejected) || done.Completed || h.removes > 7 {
			// Four are under way, of which three may end before the failure.
			t.Errorf("got %+v, %v after %d deletes, want an error after seven at most", done, err, h.removes)
		}
	})
}
