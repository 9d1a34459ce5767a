package sessionid

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

const (
	id       = "q7Yx-3vTz_0KpW1mB9dL2sHf" // as icza/session makes it
	withheld = "text withheld, it may name the session"
)

func TestATextIsWithheldThatHasAPartOfTheID(t *testing.T) {
	for i := range id {
		for j := i + 1; j <= len(id); j++ {
			part := id[i:j]
			text := "bad key " + part + "..."
			want := text
			if len(part) >= 8 {
				want = withheld
			}
			if part == id {
				want = "bad key " + Hash(id) + "..."
			}
			if got, found := Redact(text, id); got != want || found != (want != text) {
				t.Errorf("with %s: got %q and %v, want %q", part, got, found, want)
			}
		}
	}
}

// forms are texts that programs make of an id, or of a text around it.
var forms = map[string]func(string) string{
	"as it is":      func(s string) string { return s },
	"%q":            func(s string) string { return fmt.Sprintf("%q", s) },
	"%+q":           func(s string) string { return fmt.Sprintf("%+q", s) },
	"%x":            func(s string) string { return fmt.Sprintf("%x", s) },
	"%X":            func(s string) string { return fmt.Sprintf("%X", s) },
	"bytes":         func(s string) string { return fmt.Sprint([]byte(s)) },
	"a URL's query": url.QueryEscape,
	"a URL's path":  url.PathEscape,
	"base64":        func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
	"base64url":     func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) },
}

func TestATextIsRedactedInWhicheverFormItHasTheID(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.OneOf(
			rapid.StringMatching(`[A-Za-z0-9_-]{8,30}`),
			rapid.StringMatching(`[ -~]{8,30}`),
			rapid.StringOfN(rapid.RuneFrom([]rune("aé日\x00\"/")), 8, 30, -1),
		).Draw(t, "id")
		if text := "service: " + id[1:]; len(id) > 8 && !strings.Contains(text, id) {
			if got, _ := Redact(text, id); got != withheld {
				t.Fatalf("a part of %q is left in %q", id, got)
			}
		}
		around := rapid.StringMatching(`[a-z :/"]{0,5}`)
		text := around.Draw(t, "before") + id + around.Draw(t, "after")
		for name, form := range forms {
			written := "service: " + form(text) + "."
			got, found := Redact(written, id)
			if whole := strings.Contains(written, id); !found || strings.Contains(got, id) || !whole && got != withheld {
				t.Fatalf("%s: of %q with %q is left %q", name, written, id, got)
			}
		}
	})
}

func TestATextWithoutThePartsOfTheIDIsKept(t *testing.T) {
	for _, text := range []string{
		"", "deadline exceeded", "memcache: cache miss (session " + Hash(id) + ")",
		"id " + id[:7], strings.ToLower(id), base64.StdEncoding.EncodeToString([]byte("q7Yx-3v another key")),
	} {
		if got, found := Redact(text, id); found || got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
}

func TestAShortIDIsLookedForAsAWord(t *testing.T) {
	for text, want := range map[string]bool{
		"key a1:":                true,
		`key "a1"`:               true,
		"a1":                     true,
		"sessions/a1/x":          true,
		"":                       false,
		"a10":                    false,
		"data1 is not a service": false,
	} {
		if got, found := Redact(text, "a1"); found != want || found && got != withheld {
			t.Errorf("of %q is left %q", text, got)
		}
	}
	if _, found := Redact("key a-b.", "a-b"); !found {
		t.Error("an id of more than letters is not found")
	}
	if _, found := Redact("any text", ""); found {
		t.Error("no id is found in a text")
	}
}

func TestAnErrorSaysWhichSessionByAHash(t *testing.T) {
	err := Describe("save session", id, id, io.ErrUnexpectedEOF)
	if want := "save session " + Hash(id) + ": unexpected EOF"; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) || errors.Unwrap(err) != io.ErrUnexpectedEOF {
		t.Errorf("%v does not wrap its cause", err)
	}
	if err := Describe("save session", "", "", io.EOF); err.Error() != "save session: EOF" || !errors.Is(err, io.EOF) {
		t.Errorf("without an id: %v", err)
	}
}

func TestTwoPlacesOfTheIDAreReplaced(t *testing.T) {
	if got, found := Redact(id+" and "+id, id); !found || got != Hash(id)+" and "+Hash(id) {
		t.Errorf("got %q", got)
	}
	if got, _ := Redact(id+" begins with "+id[:9], id); got != withheld {
		t.Errorf("got %q", got)
	}
}

func TestAnErrorWhoseTextIsWithheldKeepsTheHashAndWhatItIs(t *testing.T) {
	cause := fmt.Errorf("key %s: %w", id[:16], &fs.PathError{Op: "get", Path: id, Err: fs.ErrPermission})
	err := Describe("save session", id, id, cause)
	if want := "save session " + Hash(id) + ": " + withheld; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	if !errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrExist) {
		t.Errorf("%v is another error now", err)
	}
	var path *fs.PathError
	if errors.As(err, &path) || errors.Unwrap(err) != nil {
		t.Error("the cause, which names the session, can be unwrapped")
	}
}

func TestHashesTellSessionsApart(t *testing.T) {
	if len(Hash(id)) != 9 || Hash(id) == Hash("another") {
		t.Errorf("got %s and %s", Hash(id), Hash("another"))
	}
}

func TestDescribeNamesASessionByItsKeyAndHidesItsID(t *testing.T) {
	const secret, key = "h.0123456789abcdef", "h:the key that the services know"
	for _, text := range []string{"cannot read " + secret, "cannot read " + key, secret + " is " + key} {
		err := Describe("load session", secret, key, fmt.Errorf("%s: %w", text, io.EOF))
		if got := err.Error(); strings.Contains(got, secret) || strings.Contains(got, key) ||
			!strings.HasPrefix(got, "load session "+Hash(key)+": ") || !errors.Is(err, io.EOF) || errors.Unwrap(err) != nil {
			t.Errorf("got %q", got)
		}
	}
}
