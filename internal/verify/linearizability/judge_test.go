package linearizability

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// A part is a history that stands for itself, and its model.
type part struct {
	name    string
	model   porcupine.Model
	history []porcupine.Operation
}

// parts divides a history: by session, as these have nothing to do with each
// other, and by attribute.
func parts(history []porcupine.Operation) []part {
	sessions := map[int][]porcupine.Operation{}
	for _, op := range history {
		n := op.Input.(operation).session
		sessions[n] = append(sessions[n], op)
	}
	var parts []part
	for n, h := range sessions {
		name := fmt.Sprintf("session %d", n)
		for i := range attributes {
			parts = append(parts, part{name + ", attribute " + names[i], single, attribute(h, i)})
		}
	}
	slices.SortFunc(parts, func(a, b part) int { return cmp.Compare(a.name, b.name) })
	return parts
}

// A verdict is what porcupine says of a history.
type verdict struct {
	result porcupine.CheckResult
	part   part // that is wrong or could not be judged
	parts  int
	took   time.Duration
}

func (v verdict) String() string {
	return fmt.Sprintf("%s, %d parts judged in %v", v.result, v.parts, v.took.Round(time.Millisecond))
}

// patience is how long a part may take to be judged.
const patience = 10 * time.Second

func linearize(history []porcupine.Operation) (v verdict) {
	began := time.Now()
	v.result = porcupine.Ok
	for _, p := range parts(history) {
		v.parts++
		result := porcupine.CheckOperationsTimeout(p.model, p.history, patience)
		if result == porcupine.Ok {
			continue
		}
		if v.result, v.part = result, p; result == porcupine.Illegal {
			break
		}
	}
	v.took = time.Since(began)
	return v
}

// explain returns a small history that is wrong, and where its picture is.
func (v verdict) explain(t *testing.T) string {
	t.Helper()
	p := v.part
	if v.result == porcupine.Illegal {
		p.history = p.shrink()
	}
	var b strings.Builder
	fmt.Fprintln(&b, p.name)
	slices.SortFunc(p.history, func(x, y porcupine.Operation) int { return cmp.Compare(x.Call, y.Call) })
	for _, op := range p.history {
		end := fmt.Sprint(op.Return)
		if op.Return == never {
			end = "…"
		}
		fmt.Fprintf(&b, "[%6d, %6s] client %d: %s\n", op.Call, end, op.ClientId, p.model.DescribeOperation(op.Input, op.Output))
	}
	dir, err := os.MkdirTemp("", "linearizability")
	if err != nil {
		t.Error(err)
		return b.String()
	}
	_, info := porcupine.CheckOperationsVerbose(p.model, p.history, patience)
	path := filepath.Join(dir, "history.html")
	if err := porcupine.VisualizePath(p.model, info, path); err != nil {
		t.Error(err)
	}
	return b.String() + "picture: " + path
}

// shrink leaves out of a wrong history what it is wrong without: what began
// after the first mistake could be seen, and reads. A history that is right is
// right without some of its reads, too.
func (p part) shrink() []porcupine.Operation {
	wrong := func(h []porcupine.Operation) bool {
		return porcupine.CheckOperationsTimeout(p.model, h, patience/10) == porcupine.Illegal
	}
	h := slices.Clone(p.history)
	slices.SortFunc(h, func(x, y porcupine.Operation) int { return cmp.Compare(x.Return, y.Return) })
	for _, op := range h {
		if early := until(h, op.Return); wrong(early) {
			h = early
			break
		}
	}
	for i := 0; i < len(h); {
		if without := slices.Delete(slices.Clone(h), i, i+1); kindOf(h[i]) == read && wrong(without) {
			h = without
		} else {
			i++
		}
	}
	return h
}

func kindOf(op porcupine.Operation) kind {
	if in, ok := op.Input.(attributeOp); ok {
		return in.kind
	}
	return op.Input.(operation).kind
}

// until is the history as it was at a time: reads that had not ended are not
// known yet, and writes under way may still take effect.
func until(history []porcupine.Operation, at int64) []porcupine.Operation {
	var h []porcupine.Operation
	for _, op := range history {
		switch k := kindOf(op); {
		case op.Return <= at:
			h = append(h, op)
		case op.Call <= at && k != read && k != refused:
			op.Return = never
			h = append(h, op)
		}
	}
	return h
}
