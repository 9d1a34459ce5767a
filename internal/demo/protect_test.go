package demo

import (
	"net/http"
	"net/http/httptest"
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
		h := SameOrigin(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))
		r := httptest.NewRequest(test.method, "http://demo.example/", nil)
		r.Header.Set(test.header, test.value)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != test.want || reached != (test.want == 200) {
			t.Errorf("%s with %s %q: got status %d, handler reached: %t, want %d", test.method, test.header, test.value, w.Code, reached, test.want)
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
		name, problem := Name(test.name)
		if name != test.want || (problem == "") != test.ok {
			t.Errorf("%q: got %q, %q, want %q, ok: %t", test.name, name, problem, test.want, test.ok)
		}
	}
}
