//go:build go1.25

package interleave

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/appengine/v2/datastore"
)

// lockedRetries is how often a background save waits for the owner of a lock.
const lockedRetries = 12

// A token is a part of a state: text, or an id that has to be renamed because it
// is another one in every schedule.
type token struct {
	id   bool
	text string
}

func word(text string) token { return token{text: text} }

// ident is a nonce or a CAS id.
func ident(kind string, id any) token { return token{true, fmt.Sprint(kind, id)} }

// A stateKey identifies a state.
type stateKey [16]byte

// state returns the key of the state that the world is in: what the services
// hold, and of each request what its calls were answered.
func (w *world) state() stateKey {
	tokens := []token{word(fmt.Sprintf("%d %v %v %v %v %v %d %d %d %d",
		w.events, w.lossy, w.deleted, w.expired, w.lapsed, w.jumped, w.closed, w.ended, w.acked, time.Since(w.began)/time.Minute))}
	if it := w.peek(); it != nil {
		tokens = append(tokens, ident("cas", it.cas), word(fmt.Sprint(w.ttl)))
		tokens = append(tokens, w.expiryToken(it), word("item"))
		tokens = append(tokens, w.itemTokens(it.flags, it.value)...)
	}
	tokens = append(tokens, word(w.recordText()), word(fmt.Sprint(w.stale, w.moved)))
	for _, a := range w.actors {
		tokens = append(tokens, a.tokens()...)
	}
	names := map[string]int{}
	h := fnv.New128a()
	var number [2]byte
	for _, t := range tokens {
		if t.id {
			n, ok := names[t.text]
			if !ok {
				n = len(names)
				names[t.text] = n
			}
			binary.LittleEndian.PutUint16(number[:], uint16(n))
			h.Write([]byte{0xff})
			h.Write(number[:])
		} else {
			h.Write([]byte(t.text))
		}
		h.Write([]byte{0})
	}
	return stateKey(h.Sum(nil))
}

// tokens are what the request will do from here on depends on, and what the
// judge has to know of it. The goroutines of a request that run side by side
// speak to one service each, so the order of answers is kept for each service
// alone. What an attempt at a transaction was answered is of no account once the
// attempt has failed because of another one, or a background save has put it
// off; how often it has done so counts when nobody else goes on.
func (a *actor) tokens() []token {
	w := a.w
	tokens := []token{word(fmt.Sprintf("| %v %v %d %+v %+v", a.crashed, a.phase, a.hits, a.at[loading], a.at[saving]))}
	if a.saw != nil {
		tokens = append(tokens, word(a.saw.String()))
	}
	tokens = append(tokens, a.movedTokens()...)
	if w.ended.has(a.index) {
		return append(tokens, word(fmt.Sprint(a.failed)))
	}
	tokens = append(tokens, word(fmt.Sprint(a.outage, a.failed, a.hasLogged(), a.txn != nil && a.txnRead != 0 && a.txnRead != w.version)))
	for _, answers := range a.answers {
		tokens = append(append(tokens, word("/")), answers...)
	}
	alone := true
	for _, c := range w.calls() {
		if c.actor != a {
			alone = false
			continue
		}
		tokens = append(tokens, word(c.name))
	}
	if alone {
		tokens = append(tokens, word(fmt.Sprint(a.polls)))
	}
	return tokens
}

// remember adds the answer of a call to what the request knows.
func (a *actor) remember(c *call) {
	i := 1
	if c.service == "memcache" {
		i = 0
	}
	if c.name == "begin" {
		a.attempt = [2]int{len(a.answers[0]), len(a.answers[1])}
	}
	if c.name == "rollback" && a.phase == returned {
		if a.polls++; a.polls >= lockedRetries {
			a.w.deleted = true
		}
		for i := range a.answers {
			a.answers[i] = a.answers[i][:a.attempt[i]]
		}
		return
	}
	if c.name == "commit" && c.err != nil && strings.Contains(c.err.Error(), "CONCURRENT_TRANSACTION") {
		a.answers[i] = a.answers[i][:a.attempt[i]]
		return
	}
	h := append(a.answers[i], word(c.name))
	if c.item != nil {
		h = append(h, word(fmt.Sprint(c.item.expiration)), a.w.expiryToken(c.item), ident("cas", c.item.cas))
		h = append(h, a.w.itemTokens(c.item.flags, c.item.value)...)
	}
	switch {
	case c.err != nil:
		h = append(h, word(c.err.Error()))
	case c.service == "memcache" && c.method == "Get":
		if it := gotItem(c.response); it != nil {
			h = append(h, ident("cas", it.cas), a.w.expiryToken(it))
			h = append(h, a.w.itemTokens(it.flags, it.value)...)
		}
	case c.service == "memcache":
		h = append(h, word(string(c.response)))
	case c.method == "Get":
		h = append(h, word(a.w.recordText()))
		if c.name == "txn-get" && a.txnRead != a.w.version {
			// It reads what was there when it began to read.
			h = append(h, word("stale"), word(string(c.response)))
		}
	case c.method == "RunQuery" || c.method == "Next":
		h = append(h, word(fmt.Sprint(strings.Contains(string(c.response), a.w.id))))
	}
	a.answers[i] = h
}

// itemTokens takes an item of Memcache apart. Its form is described in
// internal/tiered/item.go.
func (w *world) itemTokens(flags uint32, value []byte) []token {
	tokens := []token{word(kindName(flags))}
	switch {
	case flags == 0:
		return append(tokens, word(w.valueText(value)))
	case flags == 1 && len(value) >= 8:
		tokens = append(tokens, ident("nonce", string(value[:8])))
		if len(value) > 12 {
			tokens = append(tokens, w.itemTokens(binary.BigEndian.Uint32(value[8:]), value[12:])...)
		}
		return tokens
	case flags == 3 || flags == 4:
		count, n := binary.Uvarint(value)
		if n <= 0 || count > uint64(len(value))/8 {
			break
		}
		value = value[n:]
		for range count {
			tokens = append(tokens, ident("nonce", string(value[:8])))
			value = value[8:]
		}
		if flags == 4 {
			return append(tokens, word(w.valueText(value)))
		}
		size, n := binary.Uvarint(value)
		if n <= 0 || uint64(len(value)-n) < size {
			break
		}
		base, value := value[n:n+int(size)], value[n+int(size):]
		return append(tokens, word(w.valueText(base)), word(w.valueText(value)))
	}
	return append(tokens, word(string(value)))
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
		fmt.Fprintf(&b, "accessed %d", v.accessed.Sub(w.born)/time.Minute)
	}
	for _, name := range slices.Sorted(maps.Keys(v.attrs)) {
		fmt.Fprintf(&b, " %s=%s", name, v.attrs[name])
	}
	w.texts[string(value)] = b.String()
	return b.String()
}

// A record is a session's entity.
type record struct {
	value   []byte
	expires time.Time
}

// recordAt returns the entity under an id; nil: there is none.
func (w *world) recordAt(id string) *record {
	ctx := w.context(nil)
	var properties datastore.PropertyList
	err := datastore.Get(ctx, w.key(ctx, id), &properties)
	if errors.Is(err, datastore.ErrNoSuchEntity) {
		return nil
	}
	if err != nil {
		panic(err)
	}
	r, kept := &record{}, w.store.kept()
	var ok1, ok2 bool
	for _, p := range properties {
		switch p.Name {
		case kept.value:
			r.value, ok1 = p.Value.([]byte)
		case kept.expires:
			r.expires, ok2 = p.Value.(time.Time)
		}
	}
	if !ok1 || !ok2 {
		panic(fmt.Sprintf("interleave: an entity of kind %s has the properties %v", kept.kind, properties))
	}
	return r
}

func (w *world) recordText() string {
	if w.textOf != w.version {
		w.textOf, w.text = w.version, w.recordTextAt(w.id)
	}
	return w.text
}

func (w *world) recordTextAt(id string) string {
	e := w.recordAt(id)
	if e == nil {
		return "missing"
	}
	return fmt.Sprintf("expires %d %s", e.expires.Sub(w.born)/time.Minute, w.valueText(e.value))
}

// expiryToken is the expiry in an item's flags, in minutes.
func (w *world) expiryToken(it *item) token {
	if it.expiry == 0 {
		return word("")
	}
	const cycle = 1 << (32 - protocolBits)
	return word(fmt.Sprint("until ", (int64(it.expiry)-w.born.Unix()%cycle+cycle)%cycle/60))
}

func (w *world) key(ctx context.Context, id string) *datastore.Key {
	kept := w.store.kept()
	return datastore.NewKey(ctx, kept.kind, kept.prefix+id, 0, nil)
}

// forget deletes what Datastore has of the session.
func (w *world) forget() error {
	ctx := w.context(nil)
	var errs []error
	for _, id := range w.ids() {
		errs = append(errs, datastore.Delete(ctx, w.key(ctx, id)))
	}
	return errors.Join(errs...)
}
