package linearizability

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/verify/judge"
)

// promised asks the judge of all tests about every load of a history. It knows
// nothing of an order that explains all loads at once, but of what the design
// promises for each.
func (r *run) promised(history []porcupine.Operation) (wrong []string) {
	of := map[int]*judge.Session{}
	at := time.Now() // none of the sessions ends
	for _, o := range history {
		in := o.Input.(operation)
		s := of[in.session]
		if s == nil {
			s = &judge.Session{Timeout: time.Hour}
			of[in.session] = s
		}
		if in.kind == read {
			continue
		}
		q := &judge.Request{Sets: map[string]string{}, Saves: true, Used: at, Latest: at,
			Began: judge.Time(o.Call), Saving: judge.Time(o.Call), Closed: judge.Time(o.Return), Ended: judge.Time(o.Return)}
		switch in.kind {
		case login:
			q.Creates = true
		case logout, unsureLogout:
			q.Removes, q.Failed = true, in.kind == unsureLogout
		case write, unsure, refused:
			q.Began, q.Ended = judge.Time(in.began), judge.Time(in.ended)
			q.Async, q.Failed = in.ended > o.Return, in.kind != write
		}
		for i, set := range in.change.set {
			if set {
				q.Sets[names[i]] = text(in.change.to[i])
			}
		}
		s.Requests = append(s.Requests, q)
		if in.kind == refused {
			q.Sets = nil // it was not made
			if err := s.CheckRefusal(q, at); err != nil {
				wrong = append(wrong, fmt.Sprintf("session %d: %v", in.session, err))
			}
		}
	}
	for _, l := range r.losses {
		for n, s := range of {
			if l.session == 0 || l.session == n {
				s.Losses = append(s.Losses, judge.Loss{Began: judge.Time(l.begin), Ended: judge.Time(l.end)})
			}
		}
	}
	for _, o := range history {
		in := o.Input.(operation)
		if in.kind != read {
			continue
		}
		out := o.Output.(found)
		l := judge.Load{Began: judge.Time(o.Call), Ended: judge.Time(o.Return), Since: at, Wall: at, None: !out.exists, Attrs: map[string]string{}}
		for i, name := range names {
			l.Attrs[name] = text(out.values[i])
		}
		if err := of[in.session].Check(l); err != nil {
			wrong = append(wrong, fmt.Sprintf("session %d at %d: %v\n%s", in.session, o.Call, err, r.trace(in.session, o.Call, history)))
		}
	}
	return wrong
}

// trace is what happened to a session before a load, a line for each operation.
func (r *run) trace(session int, load int64, history []porcupine.Operation) string {
	lines := map[int64]string{}
	for _, l := range r.losses {
		if l.session == 0 || l.session == session {
			lines[l.begin] = fmt.Sprintf("to %d: lost by Memcache", l.end)
		}
	}
	for _, o := range history {
		in := o.Input.(operation)
		switch {
		case in.session != session:
		case in.kind == read:
			lines[o.Call] = fmt.Sprintf("to %d: read %v", o.Return, o.Output)
		case in.began != 0:
			lines[o.Call] = fmt.Sprintf("to %d: %v %v, loaded from %d on, in the background to %d", o.Return, in.kind, in.change, in.began, in.ended)
		default:
			lines[o.Call] = fmt.Sprintf("to %d: %v %v", o.Return, in.kind, in.change)
		}
	}
	var b strings.Builder
	for _, at := range slices.Sorted(maps.Keys(lines)) {
		if load-1000 < at && at <= load {
			fmt.Fprintf(&b, "%d %s\n", at, lines[at])
		}
	}
	return b.String()
}

// text is the value of an attribute, empty if it has none.
func text(v int) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprint(v)
}

func TestARefusalFromTheBackgroundIsNoRefusedWrite(t *testing.T) {
	for _, began := range []bool{false, true} {
		q := &request{errs: []error{gaesession.ErrRemoved}}
		q.began.Store(began)
		w := &saving{op: operation{kind: write}, request: q, begin: 1, closed: 2, err: gaesession.ErrRemoved}
		if got := kindOf((&run{}).finish(w)); (got == refused) == began {
			t.Errorf("the background has begun: %t, and the write is %v", began, got)
		}
	}
}
