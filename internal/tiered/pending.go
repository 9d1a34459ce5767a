package tiered

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gaesession/gaesession/internal/instance"
	"github.com/gaesession/gaesession/tier"
)

// What the services have still to be told of a session, since they failed: by
// this process, for as long as it lives.
type debt uint8

const (
	publication debt = 1 << iota // the cache is to contain what the record says
	marker                       // the cache is to have the removal marker
	emptying                     // the backup is to have the emptied record
)

const (
	// maxPending is of how many sessions a process remembers what is pending.
	maxPending = 10_000
	// pendingWorkers is how many of them it works on at once.
	pendingWorkers = 16
	// pendingWait is the longest time between two rounds of attempts, and
	// pendingStep the shortest.
	pendingWait = time.Second
	pendingStep = 10 * time.Millisecond
)

// A ledger says what one set of services has still to be told. They are told in
// rounds. The first debt begins the first round; what a round leaves, and what
// comes up meanwhile, waits for the next one.
type ledger struct {
	key   ledgerKey
	store *Store                  // of the request that came last
	ctx   context.Context         // of no request, or of that one
	debts map[string]*pendingDebt // by session

	active bool          // a round is under way
	wait   time.Duration // between the last round and the next
	next   *time.Timer   // begins the next round
}

type ledgerKey struct{ shared, instance any }

// A pendingDebt is what is pending for one session. It does not change: more of
// it is another pendingDebt.
type pendingDebt struct {
	debt  debt
	until time.Time // of the emptied record
	form  Form      // stores with several forms may share services
}

var pending = struct {
	sync.Mutex
	ledgers map[ledgerKey]*ledger // those with debts
	givenUp int
}{ledgers: make(map[ledgerKey]*ledger)}

// pendingCount is the number of debts. pending is locked when it changes.
var pendingCount atomic.Int64

func (s *Store) ledgerKey(ctx context.Context) ledgerKey {
	shared := s.shared(ctx)
	if shared == nil {
		shared = s // nobody else shares it
	}
	return ledgerKey{shared, instance.Of(ctx).Name}
}

// pendingFor returns what this process has still to tell the services of a
// session.
func (s *Store) pendingFor(ctx context.Context, id string) debt {
	if pendingCount.Load() == 0 {
		return 0
	}
	key := s.ledgerKey(ctx)
	pending.Lock()
	defer pending.Unlock()
	if l := pending.ledgers[key]; l != nil && l.debts[id] != nil {
		return l.debts[id].debt
	}
	return 0
}

// errGivenUp is reported for what the services will not be told.
var errGivenUp = errors.New("too many sessions of which the cache is to be told: it may show an older one for as long as it keeps that")

// owe remembers what the services have to be told, and has it told in the
// background. until is for how long an emptied record says that the session was
// removed.
func (s *Store) owe(ctx context.Context, id string, d debt, until time.Time) {
	key, free := s.ledgerKey(ctx), s.free(ctx)
	if lost, of := s.enter(key, free, id, &pendingDebt{d, until, s.Form}); of != nil {
		of.Report(lost, errGivenUp)
	}
	s.tracePending(ctx)
}

// enter puts a debt into its ledger. It returns the session that was given up for
// that, and the store that reports it; no store: none was.
func (s *Store) enter(key ledgerKey, free context.Context, id string, p *pendingDebt) (lost string, of *Store) {
	pending.Lock()
	defer pending.Unlock()
	l, known := pending.ledgers[key]
	if !known {
		l = &ledger{key: key, debts: make(map[string]*pendingDebt)}
	}
	if was := l.debts[id]; was != nil {
		p.debt |= was.debt
		if was.until.After(p.until) {
			p.until = was.until
		}
	} else {
		if pendingCount.Load() >= maxPending {
			pending.givenUp++
			if lost, of = makeRoom(p.debt); of == nil {
				return id, s
			}
		}
		pendingCount.Add(1)
	}
	l.debts[id] = p
	// One store and one context for all debts: what a request's context and its
	// app's Report hold on to stays in memory.
	l.store, l.ctx = s.background(), free
	l.store.Background = nil
	if !known {
		pending.ledgers[key] = l
		l.begin()
	}
	return lost, of
}

// makeRoom gives a publication up for a removal, and returns whose it was; no
// store: there is none. pending is locked.
func makeRoom(d debt) (id string, of *Store) {
	if d&(marker|emptying) == 0 {
		return "", nil
	}
	for _, l := range pending.ledgers {
		for id, p := range l.debts {
			if p.debt == publication {
				l.forget(id)
				return id, l.store
			}
		}
	}
	return "", nil
}

// forget ends a debt. pending is locked.
func (l *ledger) forget(id string) {
	delete(l.debts, id)
	pendingCount.Add(-1)
}

// begin begins a round, unless one is under way. pending is locked.
func (l *ledger) begin() {
	if l.active {
		return
	}
	l.active = true
	if l.next != nil {
		l.next.Stop()
	}
	background.start(l.round)
}

// round tells the services once what is pending, in any order of sessions. When
// they have failed three times in a row the rest waits for the next round.
func (l *ledger) round() {
	pending.Lock()
	ids := slices.Collect(maps.Keys(l.debts))
	pending.Unlock()
	var failed atomic.Int64 // in a row
	inParallel(pendingWorkers, len(ids), func(i int) {
		if failed.Load() >= tripAfter {
			return
		}
		told := false
		defer func() { // also when a service has ended the goroutine
			if failed.Add(1); told {
				failed.Store(0)
			}
		}()
		told = l.tell(ids[i])
	})
	pending.Lock()
	defer pending.Unlock()
	l.active = false
	if len(l.debts) > 0 {
		// Drain does not wait for it.
		l.wait = min(max(2*l.wait, pendingStep), pendingWait)
		l.next = time.AfterFunc(l.wait, func() {
			pending.Lock()
			defer pending.Unlock()
			l.begin()
		})
	} else if pending.ledgers[l.key] == l {
		delete(pending.ledgers, l.key)
	}
}

// tell tells the services what is pending for a session, and reports whether they
// know it then, or need not.
func (l *ledger) tell(id string) bool {
	pending.Lock()
	p, s, ctx := l.debts[id], l.store.background(), l.ctx
	pending.Unlock()
	if p == nil {
		return true
	}
	s.Form = p.form
	if !instance.Of(ctx).IsOver() {
		err := s.inBackground(ctx, func(ctx context.Context) error { return s.pay(ctx, id, p) })
		if err != nil && !isRefusal(err) {
			return false
		}
		if err != nil {
			s.Report(id, err)
		}
	}
	pending.Lock()
	if l.debts[id] == p { // no more has come up meanwhile
		l.forget(id)
	}
	pending.Unlock()
	s.tracePending(ctx)
	return true
}

func (s *Store) pay(ctx context.Context, id string, p *pendingDebt) error {
	if p.debt&emptying != 0 {
		if err := s.put(ctx, id, tier.Record{Expires: p.until}); err != nil {
			return err
		}
	}
	switch {
	case s.Cache == nil:
		return nil
	case p.debt&(marker|emptying) != 0:
		return s.mark(ctx, id)
	}
	return s.publishRecord(ctx, id)
}

// tellAll has all that is pending on an instance tried once more, now.
func tellAll(name any) {
	pending.Lock()
	defer pending.Unlock()
	for key, l := range pending.ledgers {
		if key.instance == name {
			l.begin()
		}
	}
}

func (s *Store) tracePending(ctx context.Context) {
	if s.Trace == nil || s.Trace.Pending == nil {
		return
	}
	pending.Lock()
	waiting, givenUp := int(pendingCount.Load()), pending.givenUp
	pending.Unlock()
	s.Trace.Pending(ctx, waiting, givenUp)
}
