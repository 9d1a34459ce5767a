package judge_test

import (
	"slices"
	"testing"
	"time"

	"github.com/gaesession/gaesession/internal/verify/judge"
)

const skew = 30 * time.Second

// attrs and the functions below make a history a line.
type attrs = map[string]string

func created() *judge.Request {
	return with(request(1, 1, 2, 2, attrs{"x": "0"}), func(r *judge.Request) { r.Creates = true })
}

func set(began, saving, closed, ended judge.Time, x string, changes ...func(r *judge.Request)) *judge.Request {
	r := request(began, saving, closed, ended, attrs{"x": x})
	for _, c := range changes {
		c(r)
	}
	return r
}

func touch(began, saving, closed, ended judge.Time, changes ...func(r *judge.Request)) *judge.Request {
	r := set(began, saving, closed, ended, "", changes...)
	r.Sets = nil
	return r
}

func async(r *judge.Request)   { r.Async = true }
func old(r *judge.Request)     { r.Old = true }
func ahead(r *judge.Request)   { r.Skew = skew }
func behind(r *judge.Request)  { r.Skew = -skew }
func failed(r *judge.Request)  { r.Failed = true }
func kept(r *judge.Request)    { r.Failed, r.Kept = true, true }
func late(r *judge.Request)    { r.Late = true }
func cacheOK(r *judge.Request) { r.CacheOK = true }
func blindly(r *judge.Request) { r.Blind = true }
func retried(r *judge.Request) { r.Retried = true }
func gone(r *judge.Request)    { r.Gone = true }
func idle(r *judge.Request)    { r.Saves = false }
func removes(r *judge.Request) { r.Removes = true }
func moves(r *judge.Request)   { r.Moves, r.Moved = true, r.Closed }
func died(at judge.Time) func(r *judge.Request) {
	return func(r *judge.Request) { r.Died = at }
}
func after(d time.Duration) func(r *judge.Request) {
	return func(r *judge.Request) { r.Used, r.Latest = start.Add(d), start.Add(d) }
}

// sees is a load at 50 that has seen x; "-": no session.
func sees(x string, changes ...func(l *judge.Load)) judge.Load {
	l := judge.Load{Began: 50, Ended: 51, Since: start, Wall: start, None: x == "-", Attrs: attrs{"x": x}}
	for _, c := range changes {
		c(&l)
	}
	return l
}

func blind(l *judge.Load) { l.Blind = true }

// A history is a session that was created with x=0, and what happened then.
type history struct {
	requests []*judge.Request
	losses   []judge.Loss
	set      func(s *judge.Session)
}

func (h history) session() judge.Session {
	s := judge.Session{Requests: append([]*judge.Request{created()}, h.requests...), Losses: h.losses, Timeout: time.Hour}
	if h.set != nil {
		h.set(&s)
	}
	return s
}

func of(requests ...*judge.Request) history { return history{requests: requests} }

func (h history) losing(at judge.Time) history {
	return h.losingWithin(at, at)
}

func (h history) losingWithin(began, ended judge.Time) history {
	h.losses = []judge.Loss{{Began: began, Ended: ended}}
	return h
}

func (h history) where(set func(s *judge.Session)) history {
	h.set = set
	return h
}

func timeless(s *judge.Session) { s.Timeless = true }

// What a sentence excuses, that it alone does, and what is next to that and is
// not excused.
func TestASentenceExcusesWhatItSaysAndNoMore(t *testing.T) {
	for _, test := range []struct {
		by   judge.Sentence
		name string
		history
		load judge.Load
		not  map[string]history // the same load, and nothing excuses it
	}{
		{judge.Unsaved, "what a request has saved that had loaded before",
			of(set(10, 11, 12, 0, "a", async), touch(9, 14, 15, 15, cacheOK)).losing(20), sees("0"), nil},
		{judge.Unsaved, "what a request has loaded that saved nothing",
			of(set(10, 11, 12, 0, "a", async), touch(13, 14, 15, 15, cacheOK, idle)).losing(20), sees("0"), nil},
		{judge.Unsaved, "what a request has saved that found the cache down",
			of(set(10, 11, 12, 0, "a", async), touch(13, 14, 15, 15)).losing(20), sees("0"), nil},
		{judge.Unsaved, "what a request has saved that found the cache empty",
			of(set(10, 11, 12, 0, "a", async), touch(14, 15, 16, 16, cacheOK)).losing(13), sees("0"), nil},
		{judge.Unsaved, "what the cache loses while it is loaded, by a call that began before the change",
			of(set(10, 11, 12, 0, "a", async)).losingWithin(9, 60), sees("0"), nil},
		{judge.Down, "a change that the backup has refused when the cache had lost the session",
			of(set(10, 12, 13, 13, "a", kept)).losing(11), sees("0"), nil},
		{judge.Unsaved, "an asynchronous change that was in the cache alone",
			of(set(10, 11, 12, 0, "a", async)).losing(20), sees("0"), map[string]history{
				"the cache has lost nothing":           of(set(10, 11, 12, 0, "a", async)),
				"not since":                            of(set(10, 11, 12, 0, "a", async)).losing(9),
				"it was over before":                   of(set(10, 11, 12, 0, "a", async)).losingWithin(8, 9),
				"it has begun after the load":          of(set(10, 11, 12, 0, "a", async)).losingWithin(52, 60),
				"its save has ended":                   of(set(10, 11, 12, 13, "a", async)).losing(20),
				"it was synchronous":                   of(set(10, 11, 12, 0, "a")).losing(20),
				"a logout has failed, nothing is lost": of(set(10, 11, 12, 0, "a", async), touch(13, 14, 15, 15, removes, failed)),
				"the session was saved since":          of(set(10, 11, 12, 0, "a", async), touch(13, 14, 15, 15, cacheOK)).losing(20),
				"an old instance was there before":     of(touch(5, 6, 7, 7, old), set(10, 11, 12, 0, "a", async)),
				"an old instance came after its death": of(set(10, 11, 12, 0, "a", async, died(13)), touch(20, 21, 22, 22, old, cacheOK)),
			}},
		{judge.Down, "a change that the backup has refused",
			of(set(10, 11, 12, 12, "a", kept)).losing(20), sees("0"), map[string]history{
				"the cache has lost nothing":  of(set(10, 11, 12, 12, "a", kept)),
				"the session was saved since": of(set(10, 11, 12, 12, "a", kept), touch(13, 14, 15, 15, cacheOK)).losing(20),
			}},
		{judge.Down, "an asynchronous change whose save has failed",
			of(set(10, 11, 12, 13, "a", async, late)).losing(20), sees("0"), map[string]history{
				"the session was saved since": of(set(10, 11, 12, 13, "a", async, late), touch(14, 15, 16, 16, cacheOK)).losing(20),
			}},
		{judge.Blind, "what is in the cache alone",
			of(set(10, 11, 12, 0, "a", async)), sees("0", blind), map[string]history{
				"its save has ended":          of(set(10, 11, 12, 13, "a", async)),
				"the session was saved since": of(set(10, 11, 12, 0, "a", async), touch(13, 14, 15, 15, cacheOK)),
			}},
		{judge.Clocks, "a second change whose clock is behind, after a loss",
			of(set(10, 11, 12, 0, "a", async), set(14, 15, 16, 16, "b", behind)).losing(13), sees("a"), map[string]history{
				"nothing is lost":                     of(set(10, 11, 12, 0, "a", async), set(14, 15, 16, 16, "b", behind)),
				"the loss was before":                 of(set(10, 11, 12, 0, "a", async), set(14, 15, 16, 16, "b", behind)).losing(10),
				"the loss was after":                  of(set(10, 11, 12, 0, "a", async), set(14, 15, 16, 16, "b", behind)).losing(17),
				"the first was saved before":          of(set(10, 11, 12, 13, "a", async), set(14, 15, 16, 16, "b", behind)).losing(13),
				"the first was saved before the loss": of(set(10, 11, 12, 16, "a", async), set(14, 15, 18, 18, "b", behind)).losing(17),
				"its clock is ahead":                  of(set(10, 11, 12, 0, "a", async), set(14, 15, 16, 16, "b", ahead)).losing(13),
				"another one's clock is, later":       of(set(10, 11, 12, 0, "a", async), set(14, 15, 16, 16, "b"), touch(17, 18, 19, 19, ahead)).losing(13),
				"both are behind": of(with(created(), behind), set(10, 11, 12, 0, "a", async, behind), set(14, 15, 16, 16, "b", behind)).
					losing(13).where(func(s *judge.Session) { s.Requests = s.Requests[1:] }),
			}},
		{judge.Clocks, "a first change whose time comes from a clock that is ahead",
			of(touch(5, 6, 7, 7, ahead), set(10, 11, 12, 0, "a", async), set(14, 15, 16, 16, "b")).losing(13), sees("a"), nil},
		{judge.Clocks, "a second change whose clock is behind, and that had loaded the session before the first",
			of(set(10, 12, 13, 0, "a", async), set(11, 15, 16, 16, "b", behind)), sees("a"), map[string]history{
				"it had loaded it after":     of(set(10, 12, 13, 0, "a", async), set(14, 15, 16, 16, "b", behind)),
				"the first was saved before": of(set(10, 12, 13, 14, "a", async), set(11, 15, 16, 16, "b", behind)),
				"its clock is ahead":         of(set(10, 12, 13, 0, "a", async), set(11, 15, 16, 16, "b", ahead)),
			}},
		{judge.Clocks, "a second change whose clock is behind, and that could not ask the cache",
			of(set(10, 11, 12, 0, "a", async), set(14, 15, 16, 16, "b", behind, blindly)), sees("a"), map[string]history{
				"its cache get has not failed": of(set(10, 11, 12, 0, "a", async), set(14, 15, 16, 16, "b", behind)),
				"the first was saved before":   of(set(10, 11, 12, 13, "a", async), set(14, 15, 16, 16, "b", behind, blindly)),
				"its clock is ahead":           of(set(10, 11, 12, 0, "a", async), set(14, 15, 16, 16, "b", ahead, blindly)),
				"the clocks do not differ":     of(set(10, 11, 12, 0, "a", async), set(14, 15, 16, 16, "b", blindly)),
			}},
		{judge.Clocks, "a second change whose clock is behind, tried again, that had loaded the session before",
			of(set(10, 12, 13, 13, "a"), set(11, 15, 16, 16, "b", behind, retried)), sees("a"), map[string]history{
				"it was not tried again": of(set(10, 12, 13, 13, "a"), set(11, 15, 16, 16, "b", behind)),
				"it had loaded it after": of(set(10, 12, 13, 13, "a"), set(14, 15, 16, 16, "b", behind, retried)),
				"its clock is ahead":     of(set(10, 12, 13, 13, "a"), set(11, 15, 16, 16, "b", ahead, retried)),
			}},
		{judge.FailedPublish, "a change that was not published, and one made from what it left",
			of(set(10, 11, 13, 13, "a", failed), set(12, 14, 15, 15, "b")), sees("a"), map[string]history{
				"no call to the cache has failed": of(set(10, 11, 13, 13, "a", failed, cacheOK), set(12, 14, 15, 15, "b")),
				"the backup has failed":           of(set(10, 11, 13, 13, "a", kept), set(12, 14, 15, 15, "b")),
				"it was published":                of(set(10, 11, 13, 13, "a"), set(12, 14, 15, 15, "b")),
				"the second has begun after it":   of(set(10, 11, 13, 13, "a", failed), set(14, 15, 16, 16, "b")),
				"and its clock is ahead":          of(set(10, 11, 13, 13, "a", failed), set(14, 15, 16, 16, "b", ahead)),
				"nor is the value its own before": of(set(5, 6, 7, 7, "a"), set(10, 11, 13, 13, "c", failed), set(12, 14, 15, 15, "b")),
			}},
		{judge.FailedPublish, "the same, where the second has begun after it and its clock is behind",
			of(set(10, 11, 13, 13, "a", failed), set(14, 15, 16, 16, "b", behind)), sees("a"), nil},
		{judge.OnlyCache, "what the cache has lost, without a backup",
			of(set(10, 11, 12, 12, "a")).losing(20).where(func(s *judge.Session) { s.OnlyCache = true }), sees("-"), map[string]history{
				"it has lost nothing": of(set(10, 11, 12, 12, "a")).where(func(s *judge.Session) { s.OnlyCache = true }),
				"with a backup":       of(set(10, 11, 12, 12, "a")).losing(20),
			}},
		{judge.FailedLogout, "a session whose removal has failed",
			of(touch(10, 11, 12, 12, removes, failed)), sees("0"), map[string]history{
				"it has not failed": of(touch(10, 11, 12, 12, removes)),
			}},
		{judge.Overdue, "a session that was unsaved for as long as it lives",
			of(set(10, 11, 12, 12, "a")).losing(20).where(func(s *judge.Session) { s.Overdue = true }), sees("-"), map[string]history{
				"it is in the cache": of(set(10, 11, 12, 12, "a")).where(func(s *judge.Session) { s.Overdue = true }),
				"it was saved":       of(set(10, 11, 12, 12, "a")).losing(20),
			}},
		{judge.Overdue, "such a session, removed while it was purged",
			of(set(10, 11, 12, 12, "a"), touch(13, 14, 15, 15, removes)).where(func(s *judge.Session) { s.Overdue = true }), sees("a"), map[string]history{
				"it was saved": of(set(10, 11, 12, 12, "a"), touch(13, 14, 15, 15, removes)),
			}},
		{judge.Old, "what an old instance overlaps",
			of(set(10, 11, 14, 14, "a"), touch(12, 13, 15, 15, old)), sees("0"), map[string]history{
				"it is not old":               of(set(10, 11, 14, 14, "a"), touch(12, 13, 15, 15)),
				"it has begun after it":       of(set(10, 11, 14, 14, "a"), touch(15, 16, 17, 17, old, cacheOK)),
				"it was killed before":        of(touch(4, 5, 0, 0, old, died(9)), set(10, 11, 14, 14, "a")),
				"it has written nothing":      of(set(10, 11, 14, 14, "a"), touch(12, 0, 0, 0, old)),
				"it has not yet":              of(set(10, 11, 14, 14, "a"), touch(12, 60, 61, 61, old)),
				"it has found no session":     of(set(10, 11, 14, 14, "a"), touch(12, 13, 15, 15, old, gone), touch(3, 4, 5, 5, old)),
				"it was later by every clock": of(set(10, 11, 14, 14, "a"), touch(15, 16, 17, 17, old, cacheOK, ahead, after(time.Minute))),
			}},
		{judge.Old, "what an old instance does that something overlaps",
			of(set(10, 11, 14, 14, "a", old), touch(12, 13, 15, 15)), sees("0"), map[string]history{
				"nothing overlaps": of(set(10, 11, 14, 14, "a", old), touch(15, 16, 17, 17)),
			}},
		{judge.Old, "what is in the cache alone, when an old instance finds the cache down",
			of(set(10, 11, 12, 12, "a", kept), touch(13, 14, 15, 15, old)), sees("0"), map[string]history{
				"the cache is not down": of(set(10, 11, 12, 12, "a", kept), touch(13, 14, 15, 15, old, cacheOK)),
				"it was saved":          of(set(10, 11, 12, 12, "a"), touch(13, 14, 15, 15, old)),
			}},
		{judge.Old, "what was in the cache alone, when an old instance finds a removal",
			of(set(10, 11, 12, 12, "a", kept), touch(13, 14, 20, 20, removes), touch(15, 16, 17, 17, old, cacheOK)), sees("0"), map[string]history{
				"it was saved":            of(set(10, 11, 12, 12, "a"), touch(13, 14, 20, 20, removes), touch(15, 16, 17, 17, old, cacheOK)),
				"the removal comes later": of(set(10, 11, 12, 12, "a", kept), touch(15, 18, 20, 20, removes), touch(13, 14, 15, 15, old, cacheOK)),
			}},
		{judge.Old, "a change after an old instance's, by a clock that is behind",
			of(touch(10, 11, 12, 12, old), set(13, 14, 15, 15, "a", behind, after(skew-1))), sees("0"), map[string]history{
				"later by its clock, too":   of(touch(10, 11, 12, 12, old), set(13, 14, 15, 15, "a", behind, after(skew))),
				"a clock that is ahead":     of(touch(10, 11, 12, 12, old), set(13, 14, 15, 15, "a", ahead, after(1))),
				"clocks that do not differ": of(touch(10, 11, 12, 12, old), set(13, 14, 15, 15, "a", after(1))),
				"no old instance":           of(touch(10, 11, 12, 12), set(13, 14, 15, 15, "a", behind, after(1))),
			}},
		{judge.Timeless, "what an old instance has loaded, and a request before it",
			of(touch(9, 15, 16, 16), set(10, 11, 12, 12, "a"), touch(13, 14, 15, 15, old)).where(timeless), sees("0"), map[string]history{
				"it says when":                 of(touch(9, 15, 16, 16), set(10, 11, 12, 12, "a"), touch(13, 14, 15, 15, old)),
				"the request has begun after":  of(touch(13, 15, 16, 16), set(10, 11, 12, 12, "a"), touch(13, 14, 15, 15, old)).where(timeless),
				"the request has ended before": of(touch(9, 10, 13, 13), set(10, 11, 12, 12, "a"), touch(14, 15, 16, 16, old)).where(timeless),
				"no old instance":              of(touch(9, 15, 16, 16), set(10, 11, 12, 12, "a"), touch(13, 14, 15, 15)).where(timeless),
			}},
		{judge.Timeless, "what is in the cache alone, and an old instance writes back",
			of(set(10, 11, 12, 12, "a", kept), touch(13, 14, 15, 15, old, cacheOK)).where(timeless), sees("0"), nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := test.session()
			if err := s.Check(test.load); err != nil {
				t.Errorf("%v", err)
			}
			if got := s.Excuses(test.load); !slices.Equal(got, []judge.Sentence{test.by}) {
				t.Errorf("excused by %q, want %q", got, test.by)
			}
			s.Never = []judge.Sentence{test.by}
			if s.Check(test.load) == nil {
				t.Error("excused by nothing")
			}
			for name, h := range test.not {
				s := h.session()
				if s.Check(test.load) == nil {
					t.Errorf("%s: excused by %q", name, s.Excuses(test.load))
				}
			}
		})
	}
}

func TestWhatIsSeenAsItShouldNeedsNoExcuse(t *testing.T) {
	s := of(set(10, 11, 12, 0, "a", async, ahead), touch(13, 14, 15, 15, old), touch(16, 17, 18, 18, removes, failed)).losing(20).session()
	if got := s.Excuses(sees("-")); got != nil {
		t.Errorf("no session while it is removed: excused by %q", got)
	}
	s = of(set(10, 11, 12, 0, "a", async, ahead), set(13, 14, 15, 15, "b")).losing(20).session()
	if got := s.Excuses(sees("b")); got != nil {
		t.Errorf("the last change: excused by %q", got)
	}
}

func TestWhatASessionTakesAlong(t *testing.T) {
	mover := touch(20, 21, 22, 22, moves, cacheOK)
	unsaved := set(10, 11, 12, 0, "a", async)
	for name, test := range map[string]struct {
		history
		by    *judge.Request
		x     string
		wrong bool
	}{
		"a change":                             {of(set(10, 11, 12, 12, "a")), mover, "0", true},
		"a change that was being made":         {of(set(10, 21, 30, 30, "a")), mover, "0", true},
		"a change that was not made":           {of(set(10, 21, 30, 30, "a", failed)), mover, "0", false},
		"a change that the backup has refused": {of(set(10, 11, 12, 12, "a", kept)), mover, "0", true},
		"one that it refused meanwhile":        {of(set(10, 11, 21, 21, "a", kept)), mover, "0", false},
		"a change in the cache alone":          {of(unsaved), mover, "0", true},
		"the cache is lost after it has moved": {of(unsaved).losing(30), mover, "0", true},
		"the cache was lost before":            {of(unsaved).losing(15), mover, "0", false},
		"Blind":                                {of(unsaved), touch(20, 21, 22, 22, moves), "0", false},
		"blind, but it was saved":              {of(set(10, 11, 12, 13, "a", async)), touch(20, 21, 22, 22, moves), "0", true},
		"what an old instance wrote before":    {of(set(10, 11, 12, 12, "a", old)), mover, "0", true},
		"what one writes meanwhile":            {of(set(10, 11, 21, 21, "a", old)), mover, "0", false},
		"a change under the old id after that": {of(set(30, 31, 32, 32, "a")), mover, "0", false},
		"no session":                           {of(), mover, "-", true},
		"Moving":                               {of(), touch(20, 21, 0, 0, moves, cacheOK), "-", false},
		"no session, and an error":             {of(), touch(20, 21, 22, 22, moves, failed), "-", false},
	} {
		t.Run(name, func(t *testing.T) {
			s := test.session()
			s.Requests = append(s.Requests, test.by)
			if err := s.CheckMoved(test.by, sees(test.x)); (err != nil) != test.wrong {
				t.Errorf("got %v, want wrong: %t", err, test.wrong)
			}
		})
	}
}

func TestASessionIsUnderItsOldIDUntilTheBackupHasMovedIt(t *testing.T) {
	unmoved := func(r *judge.Request) { r.Moves = true }
	movedAt := func(at judge.Time) func(r *judge.Request) {
		return func(r *judge.Request) { r.Moves, r.Moved = true, at }
	}
	for name, test := range map[string]struct {
		mover *judge.Request
		x     string
		wrong bool
	}{
		"a move that has failed":                      {touch(10, 11, 12, 12, unmoved, failed), "-", true},
		"a move under way":                            {touch(10, 11, 0, 0, unmoved), "-", true},
		"a request that died after the commit":        {touch(10, 11, 0, 0, movedAt(12), died(13)), "-", false},
		"one that died, and the cache has the item":   {touch(10, 11, 0, 0, movedAt(12), died(13)), "0", false},
		"a move that is acknowledged":                 {touch(10, 11, 13, 13, movedAt(12)), "0", true},
		"a change made by the move, under the old id": {set(10, 11, 0, 0, "a", movedAt(12)), "a", true},
	} {
		t.Run(name, func(t *testing.T) {
			s := of(test.mover).session()
			if err := s.Check(sees(test.x)); (err != nil) != test.wrong {
				t.Errorf("got %v, want wrong: %t", err, test.wrong)
			}
		})
	}
	mover := set(20, 21, 22, 22, "a", movedAt(21), cacheOK)
	s := of(mover).session()
	if err := s.CheckMoved(mover, sees("0")); err == nil {
		t.Error("a change made by the move is missing under the new id, and nothing is wrong")
	}
}

func TestAChangeThatTheCacheWasToldOfLaterCounts(t *testing.T) {
	unpublished := func(r *judge.Request) { r.Unpublished = true }
	s := of(set(10, 11, 12, 12, "a", unpublished)).session()
	if s.Check(sees("0")) == nil {
		t.Error("it is missing, and nothing is wrong")
	}
	s = of(set(10, 11, 13, 13, "a", unpublished), set(12, 14, 15, 15, "b")).session()
	if got := s.Excuses(sees("a")); !slices.Equal(got, []judge.Sentence{judge.FailedPublish}) {
		t.Errorf("excused by %q", got)
	}
}
