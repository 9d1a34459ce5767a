package gaesession_test

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"github.com/icza/session"

	"github.com/gaesession/gaesession"
)

func TestIDsHave144RandomBits(t *testing.T) {
	s := newSite(t, &gaesession.Sessions{})
	seen := map[string]bool{}
	s.visit(func(w http.ResponseWriter, r *http.Request) {
		for range 1000 {
			s.must(s.sessions.Add(r, session.NewSession()))
			id := s.get(r).ID()
			s.must(s.sessions.Remove(r, s.get(r)))
			random, err := base64.URLEncoding.DecodeString(strings.TrimPrefix(id, "h."))
			if err != nil || len(random) != 18 || !strings.HasPrefix(id, "h.") || seen[id] {
				t.Fatalf("id %q, seen before: %t; %v", id, seen[id], err)
			}
			seen[id] = true
		}
	})
}

func TestAnIDThatAVisitorHasChosenOpensNothingAndWritesNothing(t *testing.T) {
	s := newSite(t, &gaesession.Sessions{})
	for _, id := range []string{"abcdefghijklmnopqrstuvwx", "h.abcdefghijklmnopqrstuvwx", "page:/news"} {
		s.setCookie(id)
		got := s.visit(func(w http.ResponseWriter, r *http.Request) {
			if sess, err := s.sessions.Get(r); sess != nil || err != nil {
				t.Errorf("%s: got session %v and error %v", id, sess, err)
			}
		})
		s.mu.Lock()
		calls := s.requests[len(s.requests)-1].Calls()
		s.mu.Unlock()
		for _, c := range calls {
			if c.Method != "Get" {
				t.Errorf("%s: the visitor caused %v", id, c)
			}
		}
		if v := got.Header.Get("Set-Cookie"); v != "" {
			t.Errorf("%s: Set-Cookie %q", id, v)
		}
		s.login(attrs{"n": 0})
		if s.cookie() == id {
			t.Errorf("%s: the login took the visitor's id", id)
		}
	}
	s.expectErrors()
}
