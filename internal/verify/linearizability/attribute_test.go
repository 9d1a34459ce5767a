package linearizability

import (
	"fmt"
	"slices"
	"strings"

	"github.com/anishathalye/porcupine"
)

// gone is the value of an attribute when there is no session.
const gone = -1

// An attributeOp is an operation as one attribute sees it.
type attributeOp struct {
	operation
	value int
	id    int // of a write or removal under way
	phase phase
}

// A write that flickers is three operations: its beginning and its end are
// moments, between them it takes effect.
type phase int

const (
	effect phase = iota
	beginning
	ending
)

// A register is the state of an attribute.
type register struct {
	value    int
	underway []effecting // those that took effect first, in that order
}

// effecting is a write or removal under way that flickers: until it has ended a
// read may see what was there before it as well as what it makes of it. When a
// later one has ended, it may not be seen any more. For an asynchronous write
// that Memcache has lost the end is that of its background save; but its place
// among the others it has when Close returns.
type effecting struct {
	id       int
	new, old int
	effected bool
	over     bool
}

func (r register) String() string {
	parts := []string{showOrGone(r.value)}
	for _, w := range r.underway {
		if !w.over {
			parts = append(parts, fmt.Sprintf("(%s→%s)", showOrGone(w.old), showOrGone(w.new)))
		}
	}
	return strings.Join(parts, " ")
}

func showOrGone(v int) string {
	if v == gone {
		return "no session"
	}
	return show(v)
}

func (r register) shows(v int) bool {
	return r.value == v || slices.ContainsFunc(r.underway, func(w effecting) bool {
		return !w.over && (w.new == v || w.effected && w.old == v)
	})
}

// step returns the states that an operation may lead to: none, if it cannot take
// effect with this outcome.
func (r register) step(op attributeOp) []register {
	switch op.kind {
	case login:
		return []register{{value: op.value}}
	case read, refused:
		if r.shows(op.value) {
			return []register{r}
		}
		return nil
	}
	next := register{r.value, slices.Clone(r.underway)}
	i := slices.IndexFunc(r.underway, func(w effecting) bool { return w.id == op.id })
	switch op.phase {
	case beginning:
		next.underway = append(next.underway, effecting{id: op.id, new: op.value})
		return []register{next}
	case ending:
		if i < 0 || !next.underway[i].effected {
			return nil
		}
		for j := range i {
			next.underway[j].over = true
		}
		next.underway = slices.Delete(next.underway, i, i+1)
		return []register{next}
	}
	if op.id != 0 && i < 0 {
		return nil // it has not begun
	}
	applies := r.value != gone || op.kind == logout || op.kind == unsureLogout
	if !applies && op.kind == write {
		return nil
	}
	if applies {
		next.value = op.value
	}
	if i < 0 {
		return []register{next}
	}
	w := next.underway[i]
	w.effected, w.old, w.over = true, r.value, !applies
	next.underway = slices.Delete(next.underway, i, i+1)
	first := 0
	for first < len(next.underway) && next.underway[first].effected {
		first++
	}
	next.underway = slices.Insert(next.underway, first, w)
	return []register{next}
}

// single is one attribute of a session as a register.
var single = (&porcupine.NondeterministicModel{
	Init: func() []any { return []any{register{value: gone}} },
	Step: func(s, in, _ any) []any {
		var next []any
		for _, r := range s.(register).step(in.(attributeOp)) {
			next = append(next, r)
		}
		return next
	},
	Equal: func(a, b any) bool {
		return a.(register).value == b.(register).value && slices.Equal(a.(register).underway, b.(register).underway)
	},
	Hash: func(s any) uint64 {
		h := uint64(s.(register).value)
		for _, w := range s.(register).underway {
			h = h*31 + uint64(w.id)
			if w.effected {
				h++
			}
		}
		return h
	},
	DescribeOperation: func(in, _ any) string { return in.(attributeOp).String() },
	DescribeState:     func(s any) string { return s.(register).String() },
}).ToModel()

func (op attributeOp) String() string {
	text := map[kind]string{login: "login ", read: "read ", write: "set ", unsure: "set, with an error, ", refused: "set, refused, ", logout: "logout ", unsureLogout: "logout, with an error, "}[op.kind]
	return text + showOrGone(op.value) + []string{"", ": begins", ": ends"}[op.phase]
}

// attribute is the history of a session as the i-th attribute sees it: reads,
// and the writes that touch it.
func attribute(history []porcupine.Operation, i int) []porcupine.Operation {
	var h []porcupine.Operation
	for n, o := range history {
		in := o.Input.(operation)
		op := attributeOp{operation: in, value: in.change.to[i]}
		switch in.kind {
		case read:
			if out := o.Output.(found); out.exists {
				op.value = out.values[i]
			} else {
				op.value = gone
			}
		case refused, logout, unsureLogout:
			op.value = gone
		case write, unsure:
			if !in.change.set[i] {
				continue
			}
		}
		if in.kind == write || in.kind == unsure || in.kind == logout || in.kind == unsureLogout {
			op.id = n + 1
			for _, p := range []phase{beginning, ending} {
				at := o.Call
				if p == ending {
					at = max(o.Return, in.shown)
				}
				if at == never {
					continue
				}
				edge := op
				edge.phase = p
				h = append(h, porcupine.Operation{ClientId: o.ClientId, Input: edge, Call: at, Return: at})
			}
		}
		o.Input, o.Output = op, nil
		h = append(h, o)
	}
	return h
}
