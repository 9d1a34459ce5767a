package linearizability

import (
	"fmt"
	"strings"
)

// A session has three attributes whose values are numbers, used once each; zero
// stands for no value.
const attributes = 3

type values [attributes]int

// A change is what a request does to the attributes: those of set get their
// new values, the others stay as they are.
type change struct {
	set [attributes]bool
	to  values
}

var names = [attributes]string{"a", "b", "c"}

func show(v int) string {
	if v == 0 {
		return "-"
	}
	return fmt.Sprint(v)
}

// The kinds of operations.
type kind int

const (
	login kind = iota
	read
	write   // of a change, or of an access time alone
	refused // a write that met a removal
	unsure  // a write that reported another error: applied now, later or never
	logout
	unsureLogout
)

func (k kind) String() string {
	return [...]string{"login", "read", "write", "refused", "unsure", "logout", "unsure logout"}[k]
}

type operation struct {
	session int
	kind    kind
	change  change // login, write, refused, unsure

	began int64 // write: when its request began to load
	ended int64 // write: when its background save had ended, too
	shown int64 // write: from when on every read has to see it
}

func (c change) String() string {
	var s []string
	for i, set := range c.set {
		if set {
			s = append(s, names[i]+"="+show(c.to[i]))
		}
	}
	return strings.Join(s, " ")
}

// found is what a read has returned.
type found struct {
	exists bool
	values values
}
