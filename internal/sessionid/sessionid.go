// Package sessionid keeps session ids out of logs and error texts.
package sessionid

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Hash is what is written in place of an id: enough to follow one session
// through a log, too little to use it.
func Hash(id string) string {
	sum := sha256.Sum256([]byte(id))
	return "#" + hex.EncodeToString(sum[:4])
}

// Describe wraps err with what was being done with the session of that id. If
// err's text contains the id, the result answers errors.Is as err does, but does
// not unwrap to it.
func Describe(doing, id string, err error) error {
	if id == "" {
		return fmt.Errorf("%s: %w", doing, err)
	}
	wrapped := fmt.Errorf("%s %s: %w", doing, Hash(id), err)
	if text, found := Redact(wrapped.Error(), id); found {
		return &redactedError{text, err}
	}
	return wrapped
}

// shortest is the length of the shortest id that is looked for in texts. A
// client may send any; one of a few letters is no session's, but in every text.
const shortest = 8

// Redact replaces the id in a text, and tells whether it was there.
func Redact(text, id string) (redacted string, found bool) {
	if len(id) < shortest || !strings.Contains(text, id) {
		return text, false
	}
	return strings.ReplaceAll(text, id, Hash(id)), true
}

type redactedError struct {
	text string
	err  error
}

func (e *redactedError) Error() string        { return e.text }
func (e *redactedError) Is(target error) bool { return errors.Is(e.err, target) }
