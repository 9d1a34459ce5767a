//go:build go1.25

package interleave

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/gaesession/gaesession/internal/tiered"
	"github.com/gaesession/gaesession/internal/verify/judge"
	"github.com/gaesession/gaesession/tier"
)

// Owners. In a scenario with the word "owned" the session is Alice's from the
// beginning, and listed; otherwise it is nobody's until somebody logs in. A request
// "endall" removes all of Alice's sessions, whatever their ids.

// alice is the owner whose sessions are ended.
const alice = "alice"

// ownerNames are those of the owners, as they are in scenarios.
var ownerNames = []string{alice, "bob"}

func ownerNamed(name string) tiered.Owner { return tiered.OwnerOf(cookieName, name) }

// ownerAttr is the attribute that says whose a session is, where a store asks the
// app. Nobody judges it as an attribute.
const ownerAttr = "owner"

// ownerIn is the owner that the value of the attribute names.
func ownerIn(value any) string {
	name, _ := value.(string)
	return name
}

// newAttributes are those of a session that a request begins.
func newAttributes(sc scenario, o op) map[string]string {
	attrs := maps.Clone(initial)
	if sc.owned || o.enter {
		attrs[ownerAttr] = alice
	}
	return attrs
}

// indexID is that of the index of an owner.
func indexID(o tiered.Owner) string {
	return tier.OwnerPrefix + base64.RawURLEncoding.EncodeToString(o[:])
}

func isIndex(id string) bool { return strings.HasPrefix(id, tier.OwnerPrefix) }

// hasOwners reports whether sessions have owners.
func (s scenario) hasOwners() bool {
	return s.owned || slices.ContainsFunc(s.ops, op.isOwners)
}

// place says which of a world's records and items an id is of; "": the session's
// where it was at first.
func (w *world) place(id string) string {
	switch {
	case id == w.id:
		return ""
	case isIndex(id):
		for _, name := range ownerNames {
			if id == indexID(ownerNamed(name)) {
				return name
			}
		}
	case id == w.second:
		return "second"
	}
	for _, a := range w.actors {
		if id == a.target {
			return fmt.Sprint(a.index)
		}
	}
	return "?"
}

// A listing is what an index has of a session. The form of an index is described
// in internal/tiered/owner.go, and read here from that description.
type listing struct {
	id           string
	since, until time.Time
	label        string
	ending       bool
}

const indexMagic = "\x89gaeown\x01"

// emptyIndex is an index that lists nothing.
func emptyIndex() []byte {
	b := []byte(indexMagic)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
}

var errIndex = errors.New("interleave: an index that cannot be read")

func parseIndex(b []byte) (all []listing, err error) {
	if len(b) == 0 {
		return nil, nil
	}
	if !bytes.HasPrefix(b, []byte(indexMagic)) {
		return nil, errIndex
	}
	defer func() {
		if recover() != nil {
			err = errIndex
		}
	}()
	r := b[len(indexMagic) : len(b)-4]
	for len(r) > 0 {
		l := listing{
			ending: r[0] != 0,
			since:  time.UnixMicro(int64(binary.BigEndian.Uint64(r[13:]))),
			until:  time.UnixMicro(int64(binary.BigEndian.Uint64(r[21:]))),
		}
		id, label := int(binary.BigEndian.Uint16(r[29:])), int(r[31])
		r = r[32:]
		l.id, l.label = string(r[:id]), string(r[id:id+label])
		all, r = append(all, l), r[id+label:]
	}
	return all, nil
}

// listed is what the index of an owner has.
func (w *world) listed(o tiered.Owner) []listing {
	r := w.record(indexID(o))
	if r == nil {
		return nil
	}
	all, err := parseIndex(r.value)
	if err != nil {
		w.fail("the index of an owner: %v", err)
	}
	return all
}

// indexTokens are those of a stored index.
func (w *world) indexTokens(b []byte) (tokens []token) {
	all, err := parseIndex(b)
	if err != nil {
		return []token{word(err.Error())}
	}
	for _, l := range all {
		place := w.place(l.id)
		tokens = append(tokens, word(fmt.Sprint("lists ", place, l.ending, " since ", w.minutes(l.since), " until ", w.minutes(l.until))))
		if place == "?" {
			tokens = append(tokens, ident("id", l.id))
		}
	}
	return tokens
}

// ownerTokens are what the backup has of all owners.
func (w *world) ownerTokens() (tokens []token) {
	if !w.hasOwners {
		return nil
	}
	for _, r := range w.session.Requests {
		tokens = append(tokens, word(fmt.Sprint(w.claimed == 0, w.claimed < r.Began, w.claimed < r.Closed)))
	}
	for _, id := range w.ids() {
		tokens = append(tokens, word(fmt.Sprint(w.ended[id])))
	}
	for _, name := range ownerNames {
		tokens = append(append(tokens, word(name)), w.recordTokensAt(indexID(ownerNamed(name)))...)
	}
	return tokens
}

// judgeIndex looks for a session that lives and that its owner's index does not
// have, or not for as long as it lives: nobody could end it. (P10) It notes whose
// the sessions are.
func (w *world) judgeIndex() {
	if !w.hasOwners || w.indexed == w.version {
		return
	}
	w.indexed = w.version
	for _, id := range w.ids() {
		r := w.record(id)
		if isIndex(id) || r == nil {
			continue
		}
		if w.ended[id] = w.ended[id] || len(r.value) == 0; len(r.value) == 0 {
			continue
		} else if w.ended[id] && !w.hasOld() {
			w.fail("P2: the backup has a session again, under the id %q, that had ended", w.place(id))
		}
		tr, err := parseTrailer(r.value)
		if err != nil || tr.isMissing {
			continue
		}
		o := tiered.Owner([]byte(tr.owner))
		if s, err := w.store.decode(tr.value); err == nil && !w.scenario.bare && ownerNamed(s.owner) != o {
			w.fail("P10: a session, under the id %q, is %q's as the app says, and its trailer says another owner", w.place(id), s.owner)
		}
		if o == (tiered.Owner{}) {
			continue
		}
		isAlices := o == ownerNamed(alice)
		if isAlices && id == w.id && w.claimed == 0 {
			w.claimed = w.clock
		}
		for _, a := range w.actors {
			a.isAlices = a.isAlices || isAlices && id == a.target
		}
		if time.Now().Before(r.expires) && !slices.ContainsFunc(w.listed(o), func(l listing) bool { return l.id == id && !l.until.Before(tr.ends) }) {
			w.fail("P10: a session lives, under the id %q, that its owner's index does not have", w.place(id))
		}
	}
}

// login is when the login had returned to the session that a request has begun, or
// given another id; Never: it has not, or it is not Alice's.
func (a *actor) login() judge.Time {
	switch {
	case a.op.owner == "bob":
		return judge.Never
	case a.op.regenerate && a.w.scenario.owned:
		return 0 // it had logged in before
	case a.op.owner == "" || a.judge.Closed == 0 || a.judge.Failed:
		return judge.Never
	}
	return a.judge.Closed
}

// isEnded reports whether all of Alice's sessions had ended before a time, this
// one included that a request has begun or moved. (P10)
func (a *actor) isEnded(at judge.Time) bool {
	return slices.ContainsFunc(a.w.session.Requests, func(r *judge.Request) bool {
		isSpared := r.Spares && a.op.regenerate // "everywhere but here"
		return r.EndsAll && !isSpared && r.Closed != 0 && !r.Failed && r.Closed < at && a.login() < r.Began
	})
}

// mayBeEnded reports whether somebody may have ended the session that a request
// has begun or moved.
func (a *actor) mayBeEnded() bool {
	return a.w.mayBeTooMany(a) || a.isAlices && slices.ContainsFunc(a.w.session.Requests, func(r *judge.Request) bool {
		return r.EndsAll && r != a.judge && r.Began != 0 && r.End() >= a.judge.Began
	})
}

// mayBeTooMany reports whether an owner may have so many sessions that the one which
// a request has begun or moved is to end, or the one that was there at first (nil):
// whether as many logins as there may be sessions did not end before it began. "Beyond
// MaxPerOwner the oldest is ended."
func (w *world) mayBeTooMany(a *actor) bool {
	n, owner := 0, alice
	if a != nil && a.op.owner != "" {
		owner = a.op.owner
	}
	// A session that only gets a new id is as old as it was: so all logins count.
	isFirst := a == nil || !a.op.enter && w.scenario.owned && owner == alice
	for _, b := range w.actors {
		if b != a && !(a == nil && b.op.claims) && b.op.owner == owner && b.judge.Saving != 0 && (isFirst || b.judge.End() >= a.judge.Began) {
			n++
		}
	}
	return w.scenario.most > 0 && n >= w.scenario.most
}

// logsIn notes of a request that begins to log in, or to claim the session which was
// there at first, whether that session may be ended as the oldest.
func (w *world) logsIn() {
	isAlices := w.scenario.owned || slices.ContainsFunc(w.actors, func(a *actor) bool { return a.op.claims && a.judge.Saving != 0 })
	if isAlices && w.mayBeTooMany(nil) {
		w.session.Requests = append(w.session.Requests, &judge.Request{Removes: true, Failed: true, Began: w.clock, Saving: w.clock})
	}
}

// isAgain reports whether a request has logged in to a session that was gone: "a new
// session with what this request has set; the rest is reported".
func (a *actor) isAgain() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.newID != "" && slices.ContainsFunc(a.logs, isLeftOut)
}

// endsAll notes of a request that ends all of Alice's sessions whether that one
// is among them which the others are about.
func (a *actor) endsAll() {
	if a.w.scenario.owned || a.w.claimed == 0 || a.op.loads() {
		return
	}
	a.judge.Removes = true
	// While it becomes hers it may be, or not.
	a.judge.Failed = !slices.ContainsFunc(a.w.actors, func(b *actor) bool {
		return b.op.claims && b.judge.Closed != 0 && !b.judge.Failed && b.judge.Closed < a.judge.Began
	})
}

// judgeEnding has all of Alice's sessions ended, once the services answer, whatever
// has happened before; none of them is left, also when the cache is lost. (P10)
func (w *world) judgeEnding() {
	if !w.hasOwners {
		return
	}
	w.judgeIndex()
	living := slices.DeleteFunc(w.listed(ownerNamed(alice)), func(l listing) bool { return l.ending })
	// A session that moves, or is listed without a login, may be left until the next
	// login.
	isLeft := slices.ContainsFunc(w.scenario.ops, func(o op) bool { return o.regenerate && o.owner == "" || o.claims })
	if most := w.scenario.most; most > 0 && len(living) > most && w.events == 0 && !isLeft {
		w.fail("Alice has %d sessions, and may have %d", len(living), most)
	}
	w.clock++
	r := w.newRequest("", op{endall: true})
	r.act(op{endall: true}, "")
	end := &judge.Request{EndsAll: true, Removes: w.claimed != 0, Began: w.clock, Saving: w.clock, Closed: w.clock, Ended: w.clock}
	r.close()
	for _, err := range r.errs {
		w.fail("ending all reported %v", err)
	}
	w.session.Requests = append(w.session.Requests, end)
	for _, when := range []string{"when all have ended", "when all have ended, after a flush"} {
		_, v := w.look(when+" a load saw", op{})
		if b := w.inBackup(); end.Removes && !(v.none && b.none) {
			w.fail("P10: %s a load saw %v, the backup has %v", when, v, b)
		}
		w.judgeMoved(when)
		w.lose()
		w.cache.flush()
	}
	if left := w.listed(ownerNamed(alice)); len(left) > 0 {
		w.fail("when all have ended %d sessions are listed", len(left))
	}
}
