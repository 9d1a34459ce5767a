//go:build go1.25

package interleave

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/gaesession/gaesession/internal/verify/judge"
)

// Another session, that each request works on in the same store: it sets an
// attribute of it where it sets one of the first. Nothing of one may show in the
// other, and both keep the promises.

const secondAttr = "s"

// secondValue is what a request gives the attribute.
func secondValue(index int) string { return fmt.Sprint("t", index) }

// prepareSecond makes the other session.
func (w *world) prepareSecond() error {
	login := w.newRequest("", op{})
	w.second = login.create()
	login.close()
	return errors.Join(login.errs...)
}

// secondTokens are what the services hold of it.
func (w *world) secondTokens() (tokens []token) {
	if w.second == "" {
		return nil
	}
	tokens = append(tokens, word("second"))
	if it := w.cache.peek(w.second); it != nil {
		tokens = append(append(tokens, ident("cas", it.cas)), w.itemTokens(it)...)
	}
	return append(tokens, w.recordTokensAt(w.second)...)
}

// judgeSecond judges what is seen of it: its history is that of the first, but for
// what was set.
func (w *world) judgeSecond(what string) {
	if w.second == "" {
		return
	}
	s := w.session
	s.Never = w.never()
	s.Requests = []*judge.Request{{
		Creates: true, Sets: initial, Saves: true, Began: 1, Saving: 1, Closed: 1, Ended: 1, Used: w.born, Latest: w.born,
	}}
	for _, a := range w.actors {
		r := *a.judge
		r.Removes, r.Gone, r.Sets = false, a.sawSecond == nil || a.sawSecond.none, nil
		if a.op.attr != "" {
			r.Sets = map[string]string{secondAttr: secondValue(a.index)}
		} else {
			r.Saves = false // what it saved was the first session
		}
		s.Requests = append(s.Requests, &r)
	}
	for _, a := range w.actors {
		if a.sawSecond != nil && !a.sawSecond.none {
			w.checkSecond(&s, fmt.Sprintf("request %d loaded", a.index), a.sawSecond, a.judge.Began, a.since)
		}
	}
	r := w.newRequest("", op{})
	w.checkSecond(&s, what, r.load(w.second), w.clock, time.Now())
	w.expectNoErrors("a load of the other session", r.errs)
}

func (w *world) checkSecond(s *judge.Session, what string, v *view, began judge.Time, since time.Time) {
	l := judge.Load{Began: began, Ended: w.clock, Since: since, Wall: time.Now(), None: v.none, Attrs: v.attrs}
	if err := s.Check(l); err != nil {
		w.fail("%s of the other session %v: %v", what, v, err)
	}
	if extra := slices.DeleteFunc(slices.Collect(maps.Keys(v.attrs)), func(n string) bool { return n == secondAttr || initial[n] == v.attrs[n] }); len(extra) > 0 {
		w.fail("%s of the other session %v, which is not its own", what, v)
	}
}
