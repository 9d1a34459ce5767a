//go:build go1.25

package interleave

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"time"
)

// A token is a part of a state: text, or something that is another one in every
// schedule and is renamed: an id by the order in which the ids come up, a stamp
// by its rank among all of them.
type token struct {
	kind  tokenKind
	text  string
	stamp uint64
}

type tokenKind byte

const (
	plain tokenKind = iota
	renamed
	ranked
)

func word(text string) token { return token{kind: plain, text: text} }

// ident is a nonce or a CAS id.
func ident(kind string, id any) token { return token{kind: renamed, text: fmt.Sprint(kind, id)} }

// A stateKey identifies a state.
type stateKey [16]byte

// state returns the key of the state that the world is in: what the services
// hold, of each request what its calls were answered, and what the judge knows.
func (w *world) state() stateKey {
	tokens := []token{word(fmt.Sprint(w.events, w.expired, w.jumped, w.hurt, w.unsure, w.down, time.Since(w.began)/time.Minute))}
	if w.isSkewed() {
		tokens = append(tokens, stampAt(time.Now()), stampAt(time.Now().Add(skew)), stampAt(time.Now().Add(-skew)))
	}
	if it := w.peek(); it != nil {
		tokens = append(tokens, ident("cas", it.cas), word(fmt.Sprint(int(w.ttl.Minutes()))))
		tokens = append(tokens, w.itemTokens(it)...)
	}
	if c, ok := w.cache.(*fencedCache); ok {
		tokens = append(tokens, c.hiddenTokens(w.id)...)
	}
	if w.database != nil {
		tokens = append(tokens, word(w.database.Locks()))
	}
	tokens = append(tokens, w.recordTokens()...)
	tokens = append(tokens, w.secondTokens()...)
	tokens = append(tokens, w.ownerTokens()...)
	for _, a := range w.actors {
		tokens = append(tokens, a.tokens()...)
	}
	return hash(tokens)
}

func stampAt(t time.Time) token { return token{kind: ranked, stamp: uint64(t.UnixMicro()) << 12} }

func hash(tokens []token) stateKey {
	var stamps []uint64
	for _, t := range tokens {
		if t.kind == ranked {
			stamps = append(stamps, t.stamp)
		}
	}
	slices.Sort(stamps)
	stamps = slices.Compact(stamps)
	names := map[string]int{}
	h := fnv.New128a()
	var number [3]byte
	for _, t := range tokens {
		n, ok := 0, true
		switch t.kind {
		case plain:
			h.Write([]byte(t.text))
			h.Write([]byte{0})
			continue
		case renamed:
			if n, ok = names[t.text]; !ok {
				n = len(names)
				names[t.text] = n
			}
		case ranked:
			n, _ = slices.BinarySearch(stamps, t.stamp)
		}
		number[0] = 0xfe + byte(t.kind-renamed)
		binary.LittleEndian.PutUint16(number[1:], uint16(n))
		h.Write(number[:])
	}
	return stateKey(h.Sum(nil))
}

// tokens are what the request will do from here on depends on, and what the
// judge has to know of it. The goroutines of a request that run side by side
// speak to one service each, or make calls that nobody else can notice, so the
// order of answers is kept for each service alone. What an attempt at a
// transaction was answered is of no account once the attempt has failed because
// of another one.
func (a *actor) tokens() []token {
	w, r := a.w, a.judge
	text := fmt.Sprint("| ", a.crashed, a.ended.Err() != nil, a.phase, a.hits, a.down, r.Saving != 0, r.Closed != 0, r.Ended != 0, r.Failed, r.Late, r.Kept, r.Gone, r.Saves, r.CacheOK, r.Blind, r.Retried, r.Moved != 0, a.largest, shortened(r.Sets))
	for _, b := range w.session.Requests {
		text += fmt.Sprint(" ", b.Closed < r.Began, b.Ended < r.Began, b.Closed < r.Saving, b.Ended < r.Saving, b.Died != 0 && b.Died < r.Began)
	}
	for _, l := range w.session.Losses {
		t := l.Began
		text += fmt.Sprint(" ", t >= r.Began, t >= r.Saving, t >= r.Closed, t >= r.Ended)
	}
	if a.saw != nil {
		text += a.saw.String()
	}
	tokens := append([]token{word(text)}, a.movedTokens()...)
	if r.Ended != 0 || a.crashed {
		return tokens
	}
	tokens = append(tokens, word(fmt.Sprint(a.hasLogged(), a.fromCache, a.hurt, a.isStale())))
	for _, about := range slices.Sorted(maps.Keys(a.answers)) {
		tokens = append(append(tokens, word("/"+about)), a.answers[about]...)
	}
	for _, c := range w.calls() {
		if c.actor == a {
			tokens = append(tokens, word(c.named))
		}
	}
	return tokens
}

// isStale reports whether a transaction of the request has read what is not there
// any more.
func (a *actor) isStale() bool {
	for _, t := range a.txns {
		if !t.over && t.read != 0 && t.read != a.w.version {
			return true
		}
	}
	return false
}

// movedTokens are what the services hold under the request's new id.
func (a *actor) movedTokens() []token {
	if a.target == "" {
		return nil
	}
	tokens := []token{word(fmt.Sprint("moved ", a.newID != "", a.isAlices, a.isAgain()))}
	if it := a.w.cache.peek(a.target); it != nil {
		tokens = append(tokens, a.w.itemTokens(it)...)
	}
	return append(tokens, a.w.recordTokensAt(a.target)...)
}

// movesTo notes the id that the request moves the session to, as its calls are
// about it: the first one that is nobody's.
func (a *actor) movesTo(ids []string) {
	for _, id := range ids {
		if a.op.makes() && a.target == "" && a.w.place(id) == "?" {
			a.target = id
		}
	}
}

// isElsewhere reports whether the session of that number is under another id
// than it was at first.
func (w *world) isElsewhere(ids []string, i int) bool { return i < len(ids) && ids[i] != w.id }

// recordTokensOf are what the backup has under ids; of none: where the session
// was at first.
func (w *world) recordTokensOf(ids []string) (tokens []token) {
	if len(ids) == 0 || len(ids) == 1 && ids[0] == w.id {
		return w.recordTokens()
	}
	for _, id := range ids {
		tokens = append(tokens, w.recordTokensAt(id)...)
	}
	return tokens
}

// remember adds the answer of a call to what the request knows.
func (a *actor) remember(c *call) {
	if a.w.forgets {
		return
	}
	about := c.service
	if c.isAside() {
		about += "~"
	}
	if len(c.ids) == 1 && (c.service == inCache || c.name == "ds-put" && a.w.hasOwners) {
		about += " " + a.w.place(c.ids[0])
	}
	if c.name == "begin" {
		a.attempts[about] = len(a.answers[about])
	}
	if c.name == "commit" && c.err != nil && strings.Contains(c.err.Error(), "CONCURRENT_TRANSACTION") {
		// The time of the change is fixed now: what was put says which it is.
		began := a.attempts[about]
		put := slices.IndexFunc(a.answers[about][began:], func(t token) bool { return t.kind == plain && strings.HasPrefix(t.text, "txn-put") })
		if a.op.endall {
			put = len(a.answers[about]) - began // it has no time
		}
		if put >= 0 {
			a.answers[about] = slices.Delete(a.answers[about], began, began+put)
		}
		return
	}
	h := append(a.answers[about], word(c.name+fmt.Sprint(a.w.isElsewhere(c.ids, 0))))
	if a.w.hasOwners {
		for _, id := range c.ids {
			h = append(h, word(a.w.place(id)))
		}
	}
	if c.item != nil {
		h = append(h, word(fmt.Sprint(int(c.item.ttl.Minutes()))), ident("cas", c.item.cas))
		h = append(h, a.w.itemTokens(c.item)...)
	}
	switch {
	case c.err != nil:
		h = append(h, word(c.err.Error()))
	case c.got != nil:
		h = append(append(h, ident("cas", c.got.cas)), a.w.itemTokens(c.got)...)
	case c.answer != nil:
		h = append(h, c.answer()...)
	}
	for i, value := range c.values {
		if c.err == nil {
			h = append(h, word(fmt.Sprint("of ", a.w.isElsewhere(c.ids, i))))
			if i < len(c.ids) && isIndex(c.ids[i]) {
				h = append(h, a.w.indexTokens(value)...)
			} else {
				h = append(h, a.w.valueTokens(value)...)
			}
		}
	}
	a.answers[about] = h
}

func kindName(it *item) string {
	switch it.flags {
	case 0:
		tr, err := parseTrailer(it.value)
		switch {
		case err != nil:
			return "damaged"
		case tr.isMissing:
			return "old"
		case tr.isSealed():
			return "sealed"
		case tr.isUnsaved():
			return "unsaved"
		}
		return "value"
	case 1:
		return "lease"
	case 2:
		return "removed"
	}
	return fmt.Sprint("flags", it.flags)
}

func (w *world) itemTokens(it *item) []token {
	tokens := []token{word(kindName(it))}
	switch it.flags {
	case 0:
		return append(tokens, w.valueTokens(it.value)...)
	case 1:
		return append(tokens, ident("nonce", string(it.value)))
	}
	return append(tokens, word(string(it.value)))
}

// valueTokens takes an encoded session apart: times are told to the minute.
func (w *world) valueTokens(b []byte) []token {
	tr, err := parseTrailer(b)
	if err != nil {
		return []token{word(string(b))}
	}
	tokens := []token{word(w.valueText(tr.value))}
	if tr.isMissing {
		return tokens
	}
	text := fmt.Sprint("used ", w.minutes(tr.used), " ends ", w.minutes(tr.ends), " born ", w.minutes(tr.born),
		" swept ", w.minutes(tr.swept), " max ", tr.maxAge)
	if w.hasOwners {
		text += fmt.Sprintf(" owner %x", tr.owner)
	}
	if tr.isItem {
		text += fmt.Sprint(" marks ", tr.marks, " tries ", tr.tries, " next ", w.minutes(tr.next), time.Now().Before(tr.next))
	}
	if !tr.listed.IsZero() {
		text += fmt.Sprint(" listed ", w.minutes(tr.listed))
	}
	tokens = append(tokens, word(text))
	if tr.isSealed() {
		tokens = append(tokens, ident("nonce", tr.seal))
	}
	if tr.version != "" {
		tokens = append(tokens, ident("version", tr.version))
	}
	for _, c := range tr.cells {
		tokens = append(tokens, word(fmt.Sprint(c.name, c.unsaved, c.aged, c.stamp&1)), token{kind: ranked, stamp: c.stamp})
	}
	return tokens
}

// minutes since the session was created.
func (w *world) minutes(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return fmt.Sprint(int64(t.Sub(w.born).Minutes()))
}

// valueText is an encoded session with its access time in minutes.
func (w *world) valueText(value []byte) string {
	if len(value) == 0 {
		return "none"
	}
	if text, ok := w.texts[string(value)]; ok {
		return text
	}
	v, err := w.store.decode(value)
	if err != nil {
		return string(value)
	}
	var b strings.Builder
	if !v.accessed.IsZero() {
		fmt.Fprintf(&b, "accessed %s", w.minutes(v.accessed))
	}
	for _, name := range slices.Sorted(maps.Keys(v.attrs)) {
		fmt.Fprintf(&b, " %s=%s", name, short(v.attrs[name]))
	}
	if v.owner != "" {
		fmt.Fprintf(&b, " %s's", v.owner)
	}
	w.texts[string(value)] = b.String()
	return b.String()
}

// short is a value that is not longer than a screen.
func short(value string) string {
	if len(value) < 20 {
		return value
	}
	return fmt.Sprintf("%s#%d", value[:2], len(value))
}

func (w *world) recordTokens() []token {
	if w.textOf != w.version {
		w.textOf, w.text = w.version, w.recordTokensAt(w.id)
		w.size = 0
		if r := w.record(w.id); r != nil && w.scenario.small {
			if tr, err := parseTrailer(r.value); err == nil {
				w.size = len(tr.value)
			}
		}
	}
	return w.text
}

func (w *world) recordTokensAt(id string) (tokens []token) {
	r := w.record(id)
	switch {
	case r == nil:
		return []token{word("missing")}
	case len(r.value) == 0:
		// For how long it says so is drawn at random.
		tokens = []token{word("emptied")}
	case isIndex(id):
		tokens = append([]token{word("expires " + w.minutes(r.expires))}, w.indexTokens(r.value)...)
	default:
		tokens = append([]token{word("expires " + w.minutes(r.expires))}, w.valueTokens(r.value)...)
	}
	if r.version != nil {
		tokens = append(tokens, ident("version", string(r.version)))
	}
	return tokens
}
