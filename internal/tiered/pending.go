package tiered

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gaesession/gaesession/internal/instance"
	"github.com/gaesession/gaesession/internal/retry"
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

type pendingKey struct {
	services pendingServices
	id       string
}

type pendingServices struct{ shared, instance any }

// A pendingDebt is what is pending for one session.
type pendingDebt struct {
	debt  debt
	until time.Time // of the emptied record
	store *Store
	ctx   context.Context
	drawn int // counts the debts, so that a later one is not taken for an earlier one
	round int // of attempts, that it was tried in last
}

var pending = struct {
	sync.Mutex
	debts   map[pendingKey]pendingDebt
	working map[pendingServices]bool
	drawn   int
	round   int // of attempts; a call of Drain begins another one
	givenUp int
}{debts: make(map[pendingKey]pendingDebt), working: make(map[pendingServices]bool)}

// pendingCount is the number of debts.
var pendingCount atomic.Int64

func (s *Store) pendingKey(ctx context.Context, id string) pendingKey {
	shared := s.shared()
	if shared == nil {
		shared = s // nobody else shares it
	}
	return pendingKey{pendingServices{shared, instance.Of(ctx).Name}, id}
}

// pendingFor returns what this process has still to tell the services of a
// session.
func (s *Store) pendingFor(ctx context.Context, id string) debt {
	if pendingCount.Load() == 0 {
		return 0
	}
	pending.Lock()
	defer pending.Unlock()
	return pending.debts[s.pendingKey(ctx, id)].debt
}

// owe remembers what the services have to be told, and has it told in the
// background. until is for how long an emptied record says that the session was
// removed.
func (s *Store) owe(ctx context.Context, id string, d debt, until time.Time) {
	key := s.pendingKey(ctx, id)
	pending.Lock()
	p, known := pending.debts[key]
	if !known && len(pending.debts) >= maxPending {
		pending.givenUp++
		other, store := makeRoom(d)
		if store == nil {
			pending.Unlock()
			s.Report(id, errGivenUp)
			s.tracePending(ctx)
			return
		}
		defer store.Report(other, errGivenUp)
	}
	pending.drawn++
	p.debt |= d
	p.drawn, p.round = pending.drawn, -1
	if until.After(p.until) {
		p.until = until
	}
	if p.store == nil {
		p.store, p.ctx = s.background(), context.WithoutCancel(ctx)
	}
	pending.debts[key] = p
	pendingCount.Store(int64(len(pending.debts)))
	start := !pending.working[key.services]
	pending.working[key.services] = true
	pending.Unlock()
	s.tracePending(ctx)
	if start {
		go workOff(key.services)
	}
}

// errGivenUp is reported for what the services will not be told.
var errGivenUp = errors.New("too many sessions of which the cache is to be told: it may show an older one for as long as it keeps that")

// makeRoom gives a publication up for a removal, and returns whose it was; no
// store: there is none. pending is locked.
func makeRoom(d debt) (id string, store *Store) {
	if d&(marker|emptying) == 0 {
		return "", nil
	}
	for key, p := range pending.debts {
		if p.debt == publication {
			delete(pending.debts, key)
			return key.id, p.store
		}
	}
	return "", nil
}

// workOff tells the services what is pending until nothing is.
func workOff(services pendingServices) {
	wait := pendingStep
	var next time.Time // when all is tried again; what is new is tried at once
	over := false
	defer func() {
		if !over { // a service has ended the goroutine
			pending.Lock()
			delete(pending.working, services)
			pending.Unlock()
		}
	}()
	for {
		all := !time.Now().Before(next)
		var due []pendingKey
		if due, over = dueDebts(services, all); over {
			return
		}
		if len(due) > 0 {
			switch paid := payAll(due); {
			case paid && all:
				wait = pendingStep
				continue
			case paid:
				continue
			case all:
				next = time.Now().Add(wait)
				wait = min(2*wait, pendingWait)
			}
		}
		// Meanwhile it keeps nobody from ending the process: see Drain.
		for time.Now().Before(next) && !hasUntried(services) {
			time.Sleep(pendingStep)
		}
	}
}

// payAll tells the services what is pending for several sessions, and reports
// whether they know all of it then. Drain waits for that. A service that fails is
// not asked for all the others: they wait for the next round.
func payAll(keys []pendingKey) bool {
	pending.Lock()
	round := pending.round
	pending.Unlock()
	var failed atomic.Bool
	done := make(chan struct{})
	background.start(func() {
		defer close(done)
		inParallel(pendingWorkers, keys, func(key pendingKey) {
			if failed.Load() {
				pending.Lock()
				p := pending.debts[key]
				pending.Unlock()
				tried(key, p, round)
				return
			}
			paid := false
			defer func() { // also when a service has ended the goroutine
				if !paid {
					failed.Store(true)
				}
			}()
			paid = payDebt(key)
		})
	})
	<-done
	return !failed.Load()
}

// hasUntried reports whether something is pending that was not tried since Drain
// was called, or that is new.
func hasUntried(services pendingServices) bool {
	pending.Lock()
	defer pending.Unlock()
	for key, p := range pending.debts {
		if key.services == services && p.round < pending.round {
			return true
		}
	}
	return false
}

// tryAll has all tried that is pending on an instance, and returns when it was.
func tryAll(ctx context.Context, name any) error {
	pending.Lock()
	pending.round++
	round := pending.round
	pending.Unlock()
	for {
		untried := false
		pending.Lock()
		for key, p := range pending.debts {
			untried = untried || key.services.instance == name && p.round < round
		}
		pending.Unlock()
		if !untried {
			return nil
		}
		if err := retry.Wait(ctx, pendingStep); err != nil {
			return err
		}
	}
}

// dueDebts returns the sessions for which something is pending, all or those for
// which it was not tried. over: nothing is pending with those services.
func dueDebts(services pendingServices, all bool) (keys []pendingKey, over bool) {
	pending.Lock()
	defer pending.Unlock()
	over = true
	for key, p := range pending.debts {
		if key.services != services {
			continue
		}
		over = false
		if all || p.round < pending.round {
			keys = append(keys, key)
		}
	}
	if over {
		delete(pending.working, services)
	}
	return keys, over
}

// payDebt tells the services what is pending for one session.
func payDebt(key pendingKey) bool {
	pending.Lock()
	p, ok := pending.debts[key]
	pending.Unlock()
	if !ok {
		return true
	}
	if instance.Of(p.ctx).IsOver() {
		paid(key, p)
		return true
	}
	pending.Lock()
	round := pending.round
	pending.Unlock()
	defer tried(key, p, round)
	pay := func(ctx context.Context) error {
		ctx, cancel := context.WithTimeoutCause(ctx, saveTimeout, errTimeout)
		defer cancel()
		return p.store.background().pay(ctx, key.id, p)
	}
	err := pay(p.ctx)
	if err != nil && !isRefusal(err) && p.store.Background != nil {
		if bg := p.store.Background(p.ctx); bg != nil {
			err = pay(bg)
		}
	}
	if err != nil && !isRefusal(err) {
		return false
	}
	if err != nil {
		p.store.Report(key.id, err)
	}
	paid(key, p)
	return true
}

// tried notes that the services were told, in vain or not, unless more has come
// up meanwhile.
func tried(key pendingKey, p pendingDebt, round int) {
	pending.Lock()
	defer pending.Unlock()
	if now, ok := pending.debts[key]; ok && now.drawn == p.drawn {
		now.round = round
		pending.debts[key] = now
	}
}

// paid forgets what was pending, unless more has come up meanwhile.
func paid(key pendingKey, p pendingDebt) {
	pending.Lock()
	if pending.debts[key].drawn == p.drawn {
		delete(pending.debts, key)
		pendingCount.Store(int64(len(pending.debts)))
	}
	pending.Unlock()
	p.store.tracePending(p.ctx)
}

func (s *Store) pay(ctx context.Context, id string, p pendingDebt) error {
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

func (s *Store) tracePending(ctx context.Context) {
	if s.Trace == nil || s.Trace.Pending == nil {
		return
	}
	pending.Lock()
	waiting, givenUp := len(pending.debts), pending.givenUp
	pending.Unlock()
	s.Trace.Pending(ctx, waiting, givenUp)
}
