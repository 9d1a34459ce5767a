package demo

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

func TestOnlyFormsOfTheDemosOwnPagesAreLetThrough(t *testing.T) {
	for _, test := range []struct {
		method, header, value string
		want                  int
	}{
		{"POST", "Origin", "http://demo.example", 200},
		{"POST", "Origin", "https://evil.example", 403},
		{"POST", "Origin", "http://demo.example:1", 403}, // another port is another origin
		{"POST", "Origin", "null", 403},
		{"POST", "Origin", "http://a b", 403},
		{"POST", "Sec-Fetch-Site", "same-origin", 200},
		{"POST", "Sec-Fetch-Site", "none", 200}, // typed by the user
		{"POST", "Sec-Fetch-Site", "same-site", 403},
		{"POST", "Sec-Fetch-Site", "cross-site", 403},
		{"DELETE", "Sec-Fetch-Site", "cross-site", 403},
		{"POST", "X-Nothing", "said", 200}, // no browser
		{"GET", "Sec-Fetch-Site", "cross-site", 200},
		{"HEAD", "Origin", "https://evil.example", 200},
	} {
		reached := false
		h := Protect(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))
		r := httptest.NewRequest(test.method, "http://demo.example/", nil)
		r.Header.Set(test.header, test.value)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != test.want || reached != (test.want == 200) {
			t.Errorf("%s with %s %q: got status %d, handler reached: %t, want %d", test.method, test.header, test.value, w.Code, reached, test.want)
		}
		if got := w.Header().Get("Cache-Control"); got != "no-store" {
			t.Errorf("%s: got Cache-Control %q", test.method, got)
		}
	}
}

func TestFormsAreParsedUpToASize(t *testing.T) {
	for _, test := range []struct {
		body io.Reader
		want int
	}{
		{strings.NewReader("name=Ada"), 200},
		{strings.NewReader("name=Ada&fill=" + strings.Repeat("x", maxFormSize)), 400},
		{strings.NewReader("name=%zz"), 400},
	} {
		var name string
		h := Protect(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { name = r.PostForm.Get("name") }))
		r := httptest.NewRequest(http.MethodPost, "/", test.body)
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != test.want || (name == "Ada") != (test.want == 200) {
			t.Errorf("got status %d and name %q, want %d", w.Code, name, test.want)
		}
	}
}

func TestNamesAreTrimmedAndBounded(t *testing.T) {
	longest := strings.Repeat("é", MaxNameLength)
	for _, test := range []struct {
		name, want string
		ok         bool
	}{
		{" Ada ", "Ada", true},
		{longest, longest, true},
		{longest + "é", longest + "é", false},
		{" \xff ", "", false},
	} {
		name, problem := Name(url.Values{"name": {test.name}})
		if name != test.want || (problem == "") != test.ok {
			t.Errorf("%q: got %q, %q, want %q, ok: %t", test.name, name, problem, test.want, test.ok)
		}
	}
}
