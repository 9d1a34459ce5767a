package judge_test

import (
	"testing"
	"time"

	"github.com/gaesession/gaesession/internal/verify/judge"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// request is one that began to load, began to save, returned and ended then.
func request(began, saving, closed, ended judge.Time, sets map[string]string) *judge.Request {
	return &judge.Request{Began: began, Saving: saving, Closed: closed, Ended: ended, Sets: sets, Saves: true, Used: start, Latest: start}
}

func with(r *judge.Request, change func(r *judge.Request)) *judge.Request {
	change(r)
	return r
}

func TestWhatMayBeSeen(t *testing.T) {
	type attrs = map[string]string
	created := with(request(1, 1, 2, 2, attrs{"x": "0"}), func(r *judge.Request) { r.Creates = true })
	async := func(closed, ended judge.Time) *judge.Request {
		return with(request(10, 11, closed, ended, attrs{"x": "a"}), func(r *judge.Request) { r.Async = true })
	}
	kept := with(request(10, 11, 12, 12, attrs{"x": "a"}), func(r *judge.Request) { r.Failed, r.Kept = true, true })
	logout := func(failed bool) *judge.Request {
		return with(request(30, 31, 32, 32, nil), func(r *judge.Request) { r.Removes, r.Failed = true, failed })
	}
	for name, test := range map[string]struct {
		requests []*judge.Request
		losses   []judge.Loss
		see      string // "-": no session
		wrong    string // the same; what must not be seen
		blind    bool
	}{
		"a saved change":                  {[]*judge.Request{request(10, 11, 12, 12, attrs{"x": "a"})}, nil, "a", "0", false},
		"a saved change, Memcache lost":   {[]*judge.Request{request(10, 11, 12, 12, attrs{"x": "a"})}, []judge.Loss{judge.LossAt(20)}, "a", "0", true},
		"a deletion":                      {[]*judge.Request{request(10, 11, 12, 12, attrs{"x": ""})}, nil, "", "0", false},
		"the last one wins":               {[]*judge.Request{request(10, 11, 12, 12, attrs{"x": "a"}), request(9, 13, 14, 14, attrs{"x": "b"})}, nil, "b", "a", false},
		"a late background save":          {[]*judge.Request{async(12, 40), request(13, 14, 15, 15, attrs{"x": "b"})}, nil, "b", "a", false},
		"set back":                        {[]*judge.Request{async(12, 16), request(13, 14, 15, 15, attrs{"x": "0"})}, nil, "0", "a", false},
		"in the cache alone":              {[]*judge.Request{async(12, 0)}, nil, "a", "0", false},
		"an ended background save":        {[]*judge.Request{async(12, 13)}, []judge.Loss{judge.LossAt(20)}, "a", "0", false},
		"refused by the backup, but kept": {[]*judge.Request{kept}, nil, "a", "0", false},
		"a session that nobody removed":   {nil, []judge.Loss{judge.LossAt(20)}, "0", "-", false},
		"a removed session":               {[]*judge.Request{logout(false)}, nil, "-", "0", false},
		"a value that nobody has set":     {nil, nil, "0", "b", false},
	} {
		s := judge.Session{Requests: append([]*judge.Request{created}, test.requests...), Losses: test.losses, Timeout: time.Hour}
		load := func(x string) error {
			l := judge.Load{Began: 50, Ended: 51, Since: start, Wall: start, None: x == "-", Attrs: attrs{"x": x}, Blind: test.blind}
			return s.Check(l)
		}
		if err := load(test.see); err != nil {
			t.Errorf("%s: %q: %v", name, test.see, err)
		}
		if load(test.wrong) == nil {
			t.Errorf("%s: %q may be seen", name, test.wrong)
		}
	}
	// What is excused, each by its sentence.
	for name, test := range map[string]struct {
		requests []*judge.Request
		losses   []judge.Loss
		see      []string
	}{
		"Unsaved":      {[]*judge.Request{async(12, 0)}, []judge.Loss{judge.LossAt(20)}, []string{"a", "0"}},
		"Saved":        {[]*judge.Request{request(10, 11, 0, 0, attrs{"x": "a"})}, nil, []string{"a", "0"}},
		"Down":         {[]*judge.Request{kept}, []judge.Loss{judge.LossAt(20)}, []string{"a", "0"}},
		"FailedLogout": {[]*judge.Request{logout(true)}, nil, []string{"0", "-"}},
		"Old": {[]*judge.Request{request(10, 11, 14, 14, attrs{"x": "a"}),
			with(request(12, 13, 15, 15, attrs{"y": "b"}), func(r *judge.Request) { r.Old = true })}, nil, []string{"a", "0"}},
		"overlapping": {[]*judge.Request{request(10, 11, 14, 14, attrs{"x": "a"}), request(10, 12, 15, 15, attrs{"x": "b"})}, nil, []string{"a", "b"}},
	} {
		s := judge.Session{Requests: append([]*judge.Request{created}, test.requests...), Losses: test.losses, Timeout: time.Hour}
		for _, x := range test.see {
			l := judge.Load{Began: 50, Ended: 51, Since: start, Wall: start, None: x == "-", Attrs: attrs{"x": x}}
			if err := s.Check(l); err != nil {
				t.Errorf("%s: %q: %v", name, x, err)
			}
		}
	}
}

func TestRefusalsAndSuccesses(t *testing.T) {
	created := with(request(1, 1, 2, 2, map[string]string{"x": "0"}), func(r *judge.Request) { r.Creates = true })
	change := request(10, 20, 21, 21, map[string]string{"x": "a"})
	s := judge.Session{Requests: []*judge.Request{created, change}, Timeout: time.Hour}
	if s.CheckRefusal(change, start) == nil {
		t.Error("a change may be refused though nobody has removed the session")
	}
	if err := s.CheckRefusal(change, start.Add(2*time.Hour)); err != nil {
		t.Errorf("a change after the session has ended: %v", err)
	}
	if err := s.CheckSuccess(change); err != nil {
		t.Error(err)
	}
	logout := with(request(11, 12, 13, 13, nil), func(r *judge.Request) { r.Removes = true })
	s.Requests = append(s.Requests, logout)
	if err := s.CheckRefusal(change, start); err != nil {
		t.Errorf("a change of a removed session: %v", err)
	}
	if s.CheckSuccess(change) == nil {
		t.Error("a change of a removed session may report no error")
	}
}
