// Package sessionid keeps session ids, and parts of them, out of logs and error
// texts.
package sessionid

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Hash returns what is written in place of an id: enough to follow one session
// through a log, too little to use it.
func Hash(id string) string {
	sum := sha256.Sum256([]byte(id))
	return "#" + hex.EncodeToString(sum[:4])
}

// Describe wraps err with what was being done with the session of that id, and
// names the session by the Hash of its key, which services know it by. If err's text
// names one of both, the result answers errors.Is as err does, but does not unwrap to
// it.
func Describe(doing, id, key string, err error) error {
	if id == "" {
		return fmt.Errorf("%s: %w", doing, err)
	}
	doing += " " + Hash(key)
	text, found := Redact(err.Error(), key)
	if key != id {
		var also bool
		text, also = Redact(text, id)
		found = found || also
	}
	if found {
		return &redactedError{doing + ": " + text, err}
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// Redact replaces the id in a text by its Hash, and reports whether the text
// named it. If a part of the id is left, Redact withholds the whole text: what
// is around a part may be another form of the rest.
//
// A part is eight bytes in a row: as they are, quoted as Go or a URL does, as
// decimal or hexadecimal numbers, or in base64. A shorter id, which is easy to
// guess and would be found in most texts, counts only where it is a word.
func Redact(text, id string) (redacted string, found bool) {
	redacted = text
	if len(id) >= partLength {
		redacted = strings.ReplaceAll(text, id, Hash(id))
	}
	if names(redacted, id) {
		redacted = "text withheld, it may name the session"
	}
	return redacted, redacted != text
}

const partLength = 8

// names reports whether the text has a part of the id.
func names(text, id string) bool {
	if len(id) < partLength {
		return slices.Contains(strings.FieldsFunc(text, func(r rune) bool {
			return !unicode.IsLetter(r) && !unicode.IsNumber(r) && !strings.ContainsRune(id, r)
		}), id)
	}
	lower, base64Text := strings.ToLower(text), base64Standard.Replace(text)
	for i := range len(id) - partLength + 1 {
		part := id[i : i+partLength]
		if strings.Contains(text, part) ||
			strings.Contains(text, strings.Trim(strconv.Quote(part), `"`)) ||
			strings.Contains(text, strings.Trim(strconv.QuoteToASCII(part), `"`)) ||
			strings.Contains(text, url.QueryEscape(part)) ||
			strings.Contains(text, url.PathEscape(part)) ||
			strings.Contains(text, strings.Trim(fmt.Sprint([]byte(part)), "[]")) ||
			strings.Contains(lower, hex.EncodeToString([]byte(part))) ||
			containsBase64(base64Text, part) {
			return true
		}
	}
	return false
}

var base64Standard = strings.NewReplacer("-", "+", "_", "/")

// containsBase64 reports whether the text has the part in standard base64, after
// any number of other bytes. It looks for the digits that the part alone makes.
func containsBase64(text, part string) bool {
	for before := range 3 {
		digits := base64.RawStdEncoding.EncodeToString([]byte("\x00\x00"[:before] + part))
		first, end := (before*8+5)/6, (before+len(part))*8/6
		if strings.Contains(text, digits[first:end]) {
			return true
		}
	}
	return false
}

type redactedError struct {
	text string
	err  error
}

func (e *redactedError) Error() string        { return e.text }
func (e *redactedError) Is(target error) bool { return errors.Is(e.err, target) }
