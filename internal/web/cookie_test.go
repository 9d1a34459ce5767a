package web

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

func TestAResponseHasOneCookieOfAName(t *testing.T) {
	for _, test := range []struct{ before, want []string }{
		{nil, []string{"id=new"}},
		{[]string{"id=old"}, []string{"id=new"}},
		{[]string{"id=old; Path=/there; Domain=example.com", " id =older", "id", "id; Path=/", "id="}, []string{"id=new"}},
		{[]string{"a=1", "id=old", "b=id=2; HttpOnly", "id=older"}, []string{"a=1", "b=id=2; HttpOnly", "id=new"}},
		{[]string{"ID=1", "id2=2", "xid=3", "=id", "", "a; id=4"}, []string{"ID=1", "id2=2", "xid=3", "=id", "", "a; id=4", "id=new"}},
	} {
		h := http.Header{"Set-Cookie": test.before}
		was := slices.Clone(test.before)
		if err := SetCookie(h, &http.Cookie{Name: "id", Value: "new"}); err != nil {
			t.Error(err)
		}
		if got := h["Set-Cookie"]; !slices.Equal(got, test.want) {
			t.Errorf("%q became %q, want %q", was, got, test.want)
		}
		if !slices.Equal(test.before, was) {
			t.Errorf("the slice that was there is now %q, was %q", test.before, was)
		}
	}
}

func TestAResponseWithACookieIsNotStoredUnlessTheAppSaysOtherwise(t *testing.T) {
	for _, test := range []struct{ before, want []string }{
		{nil, []string{"no-store"}},
		{[]string{"private, max-age=60"}, []string{"private, max-age=60"}},
		{[]string{}, []string{}},
	} {
		h := http.Header{}
		if test.before != nil {
			h["Cache-Control"] = test.before
		}
		for range 2 {
			if err := SetCookie(h, &http.Cookie{Name: "id", MaxAge: -1}); err != nil {
				t.Error(err)
			}
		}
		if got := h["Cache-Control"]; !slices.Equal(got, test.want) {
			t.Errorf("Cache-Control %q became %q, want %q", test.before, got, test.want)
		}
	}
}

func TestAnInvalidCookieIsAnErrorAndChangesNothing(t *testing.T) {
	for _, c := range []*http.Cookie{nil, {Name: "a b", Value: "1"}, {Name: "id", Value: "a;b"}, {Name: "id", Partitioned: true}} {
		h := http.Header{"Set-Cookie": {"id=old"}}
		if err := SetCookie(h, c); err == nil || len(h) != 1 || h.Get("Set-Cookie") != "id=old" {
			t.Errorf("%v: got %v, and the header is %v", c, err, h)
		}
	}
}

func TestVaryNamesCookieOnce(t *testing.T) {
	for _, test := range []struct{ before, want []string }{
		{nil, []string{"Cookie"}},
		{[]string{"Cookie"}, []string{"Cookie"}},
		{[]string{"Accept-Encoding"}, []string{"Accept-Encoding", "Cookie"}},
		{[]string{"Origin", "Accept-Encoding,\tcookie , X"}, []string{"Origin", "Accept-Encoding,\tcookie , X"}},
		{[]string{"X-Cookie"}, []string{"X-Cookie", "Cookie"}},
		{[]string{"*"}, []string{"*"}},
	} {
		h := http.Header{"Vary": test.before}
		for range 2 {
			VaryCookie(h)
		}
		if got := h["Vary"]; !slices.Equal(got, test.want) {
			t.Errorf("Vary %q became %q, want %q", test.before, got, test.want)
		}
	}
}

func TestARequestHasAtMostThreeValuesOfACookie(t *testing.T) {
	for _, test := range []struct {
		lines []string
		want  [3]string
	}{
		{nil, [3]string{}},
		{[]string{"other=1"}, [3]string{}},
		{[]string{"id=1"}, [3]string{"1"}},
		{[]string{`a=0; id=1; id2=x; id="2"; ID=y`}, [3]string{"1", "2"}},
		{[]string{"id=; id=1; id=1; id=2; id=1; id=a b\\; id=3; id=4"}, [3]string{"1", "2", "3"}},
		{[]string{"id=1", "id=2"}, [3]string{"1", "2"}},
		{[]string{strings.Repeat("id=1; ", 1000) + "id=2"}, [3]string{"1", "2"}},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header["Cookie"] = test.lines
		if got := CookieValues(r, "id"); got != test.want {
			t.Errorf("%.60q has the values %q, want %q", test.lines, got, test.want)
		}
	}
	if got := CookieValues(httptest.NewRequest("GET", "/", nil), ""); got != [3]string{} {
		t.Errorf("no name: got %q", got)
	}
}
