package demo

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gaesession/gaesession/tier"
)

var testTemplate = Template(`{{define "title"}}Title{{end}}{{define "content"}}<p>{{.Text}}</p>{{end}}`)

type testPage struct {
	Page
	Text string
}

func newStage(f *Faults) *Stage {
	return &Stage{Package: "test", Where: "here", Cache: "Fast", Backup: "Slow", Cookie: "id", Still: "Still there", Faults: f}
}

// visit has a page made by a request that does what do says, and returns it.
func (s *Stage) visit(t *testing.T, do func(ctx context.Context, trace *tier.Trace), cookies ...*http.Cookie) (page string, header http.Header) {
	t.Helper()
	mux := http.NewServeMux()
	s.Register(mux)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		p := testPage{Page: s.Page(w, r), Text: "<content>"}
		if do != nil {
			do(r.Context(), s.Trace())
		}
		Render(w, http.StatusOK, testTemplate, p)
	})
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	for _, c := range cookies {
		r.AddCookie(c)
	}
	w := httptest.NewRecorder()
	s.Handler(mux).ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		t.Errorf("status %d", w.Code)
	}
	return w.Body.String(), w.Header()
}

// press presses one of the buttons.
func (s *Stage) press(button string) *httptest.ResponseRecorder {
	mux := http.NewServeMux()
	s.Register(mux)
	w := httptest.NewRecorder()
	s.Handler(mux).ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/cache/"+button, nil))
	return w
}

func want(t *testing.T, page string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(page, text) {
			t.Errorf("the page lacks %q:\n%s", text, page)
		}
	}
}

// A step is what the trace is told: a call as "service operation outcome", or
// "loaded" and from where.
func tell(steps ...string) func(context.Context, *tier.Trace) {
	return func(ctx context.Context, trace *tier.Trace) {
		for _, step := range steps {
			words := strings.Fields(step)
			if words[0] == "loaded" {
				trace.Loaded(ctx, tier.Load{From: words[1]})
			} else {
				trace.Call(ctx, tier.Call{Service: words[0], Operation: words[1], Outcome: words[2], Duration: time.Nanosecond})
			}
		}
	}
}

func TestThePageShowsWhereTheSessionCameFrom(t *testing.T) {
	cookie := &http.Cookie{Name: "id", Value: "x"}
	for _, test := range []struct {
		steps   []string
		cookies []*http.Cookie
		want    []string
	}{
		{nil, nil, []string{"There is no session", "none sent", "No operations"}},
		{[]string{"cache get found", "loaded cache"}, []*http.Cookie{cookie},
			[]string{"came from Fast", "</b> had it", "no need to ask", "1 operation "}},
		{[]string{"cache get none", "backup get found", "loaded backup", "cache add stored", "cache get found", "backup get found", "cache compare-and-swap stored"},
			[]*http.Cookie{cookie}, []string{"came from Slow", "did not have it", "by now it is in Fast again", "6 operations", "Putting it back into Fast", "Compare and swap"}},
		{[]string{"cache get error", "backup get found", "loaded backup", "backup update stored", "cache get skipped"},
			[]*http.Cookie{cookie}, []string{"Fast did not answer in time", "Still there", "3 operations", "Saving it", "failed", "not made"}},
		{[]string{"cache get skipped", "backup get found", "loaded backup"},
			[]*http.Cookie{cookie}, []string{"Nobody waits for Fast any more", "Still there", "1 operation ", "known not to answer"}},
		{[]string{"cache get found", "loaded none"}, []*http.Cookie{cookie}, []string{"There is no session", "knows that it is over", "Looking for a session"}},
		{[]string{"cache get found", "backup get found", "loaded backup"}, []*http.Cookie{cookie}, []string{"came from Slow", "had a placeholder"}},
		{[]string{"cache get error", "backup get error", "loaded unknown"}, []*http.Cookie{cookie}, []string{"Nobody can tell", "Your cookie stays"}},
	} {
		page, _ := newStage(nil).visit(t, tell(test.steps...), test.cookies...)
		want(t, page, append(test.want, "&lt;content&gt;", "Title · test demo", "on here")...)
	}
}

func TestAPageOfADemoWithoutACacheShowsNone(t *testing.T) {
	s := newStage(nil)
	s.Cache = ""
	page, _ := s.visit(t, tell("backup get found", "loaded backup"), &http.Cookie{Name: "id", Value: "x"})
	want(t, page, "came from Slow", "It lives there alone", "waited 0.00 ms for Slow")
	if strings.Count(page, "<li ") != 2 {
		t.Errorf("want two hops:\n%s", page)
	}
}

func TestCallsThatOverlapAreSaidToRunInParallel(t *testing.T) {
	const says = "ran in parallel"
	page, _ := newStage(nil).visit(t, tell("cache get found", "loaded cache", "backup get found"))
	if strings.Contains(page, says) {
		t.Errorf("calls one after the other are said to run in parallel:\n%s", page)
	}
	page, _ = newStage(nil).visit(t, func(ctx context.Context, trace *tier.Trace) {
		for _, service := range []string{"cache", "backup"} {
			trace.Call(ctx, tier.Call{Service: service, Operation: "get", Outcome: "found", Duration: time.Hour})
		}
	})
	want(t, page, says)
}

func TestWhatOverlapsIsWaitedForOnce(t *testing.T) {
	ms := time.Millisecond
	calls := []call{
		{Start: 0, Call: tier.Call{Duration: 10 * ms}},
		{Start: 2 * ms, Call: tier.Call{Duration: 3 * ms}},
		{Start: 8 * ms, Call: tier.Call{Duration: 4 * ms}},
		{Start: 20 * ms, Call: tier.Call{Duration: ms}},
	}
	if got := waited(calls); got != 13*ms {
		t.Errorf("got %v, want 13 ms", got)
	}
	for d, want := range map[time.Duration]string{12 * time.Microsecond: "0.01 ms", 1234 * time.Microsecond: "1.2 ms", 501234 * time.Microsecond: "501 ms"} {
		if got := format(d); got != want {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
}

func TestTheButtonsMakeTheCacheFail(t *testing.T) {
	emptied := 0
	var fails error
	s := newStage(&Faults{Flush: func(context.Context) error { emptied++; return fails }})
	notice := func(w *httptest.ResponseRecorder) string {
		t.Helper()
		if w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/" {
			t.Errorf("got %d to %q", w.Code, w.Header().Get("Location"))
		}
		page, _ := s.visit(t, nil, w.Result().Cookies()...)
		return page
	}
	want(t, notice(s.press("flush")), "Fast was emptied.", ">Stop Fast<")
	if emptied != 1 {
		t.Errorf("emptied %d times", emptied)
	}
	fails = errors.New("it is full <")
	want(t, notice(s.press("flush")), "That failed: it is full &lt;")
	fails = nil
	want(t, notice(s.press("flush")), "Fast was emptied.")
	for range 2 {
		want(t, notice(s.press("stop")), "Fast does not answer any more.", "Start Fast again", "Requests wait for half a second each")
	}
	s.Trace().Breaker(context.Background(), true)
	s.Trace().Pending(context.Background(), 2, 0)
	page, _ := s.visit(t, nil)
	want(t, page, "The circuit breaker is open", "still to be told of 2 sessions")
	for range 2 {
		want(t, notice(s.press("start")), "Fast answers again.", ">Stop Fast<")
	}
}

func TestWithoutFaultsThereAreNoButtons(t *testing.T) {
	s := newStage(nil)
	page, _ := s.visit(t, nil)
	if strings.Contains(page, "/cache/") {
		t.Error("there are")
	}
	for _, button := range []string{"flush", "stop", "start"} {
		if w := s.press(button); w.Code != http.StatusNotFound {
			t.Errorf("%s: status %d", button, w.Code)
		}
	}
}

func TestANoticeIsForgottenWhenItIsShown(t *testing.T) {
	s := newStage(nil)
	w := httptest.NewRecorder()
	Redirect(w, httptest.NewRequest(http.MethodPost, "/", nil), "/", "Söme; <text>, \"said\"")
	page, header := s.visit(t, nil, w.Result().Cookies()...)
	want(t, page, "Söme; &lt;text&gt;, &#34;said&#34;")
	if cookies := (&http.Response{Header: header}).Cookies(); len(cookies) != 1 || cookies[0].MaxAge >= 0 {
		t.Errorf("got cookies %v, want one that ends", cookies)
	}
	if page, header = s.visit(t, nil); strings.Contains(page, "notice") || header.Get("Set-Cookie") != "" {
		t.Errorf("without a notice: cookie %q and\n%s", header.Get("Set-Cookie"), page)
	}
	if page, _ = s.visit(t, nil, &http.Cookie{Name: noticeCookie, Value: "%zz"}); strings.Contains(page, "notice") {
		t.Errorf("a cookie of somebody else's is shown:\n%s", page)
	}
}

func TestWhatTheStoreReportsIsAProblemUnlessItIsSaved(t *testing.T) {
	for err, problem := range map[error]bool{
		tier.ErrNotPublished: false, tier.ErrNotBackedUp: false, tier.ErrNotSaved: true, tier.ErrUnavailable: true, tier.ErrRemoved: true,
	} {
		if got := (Page{Report: fmt.Errorf("save: %w", err)}).Problem(); got != problem {
			t.Errorf("%v: got %v", err, got)
		}
	}
	if (Page{}).Problem() {
		t.Error("there is a problem where nothing is reported")
	}
}

func TestThePageMayLoadNothingFromElsewhereAndIsNotCached(t *testing.T) {
	_, header := newStage(nil).visit(t, nil)
	for name, value := range map[string]string{
		"Content-Security-Policy": "default-src 'none'; style-src 'self'", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store",
	} {
		if got := header.Get(name); !strings.Contains(got, value) {
			t.Errorf("%s: got %q, want %q in it", name, got, value)
		}
	}
	mux := http.NewServeMux()
	s := newStage(nil)
	s.Register(mux)
	for address, kind := range map[string]string{"/style.css": "text/css", "/icon.svg": "image/svg+xml", "/favicon.ico": "image/svg+xml"} {
		w := httptest.NewRecorder()
		s.Handler(mux).ServeHTTP(w, httptest.NewRequest(http.MethodGet, address, nil))
		if w.Code != http.StatusOK || !strings.HasPrefix(w.Header().Get("Content-Type"), kind) || !strings.Contains(w.Header().Get("Cache-Control"), "max-age") {
			t.Errorf("%s: got %d, %v", address, w.Code, w.Header())
		}
	}
}

func TestFormsAreReadUpToASize(t *testing.T) {
	for size, name := range map[int]string{10: "Ada", maxFormSize: ""} {
		var got string
		h := newStage(nil).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.PostFormValue("name") }))
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("fill="+strings.Repeat("x", size)+"&name=Ada"))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		h.ServeHTTP(httptest.NewRecorder(), r)
		if got != name {
			t.Errorf("a form of %d bytes: got name %q, want %q", size, got, name)
		}
	}
}

// memoryCache answers everything at once.
type memoryCache struct {
	tier.Cache
	calls atomic.Int64
}

func (c *memoryCache) Get(context.Context, string) (*tier.Item, error) {
	c.calls.Add(1)
	return nil, nil
}
func (c *memoryCache) Set(context.Context, string, tier.Item, time.Duration) error {
	c.calls.Add(1)
	return nil
}
func (c *memoryCache) Add(context.Context, string, tier.Item, time.Duration) (bool, error) {
	c.calls.Add(1)
	return true, nil
}
func (c *memoryCache) CompareAndSwap(context.Context, string, *tier.Item, tier.Item, time.Duration) (tier.Outcome, error) {
	c.calls.Add(1)
	return tier.Stored, nil
}

func TestAStoppedCacheAnswersNobodyUntilItIsStartedOrTheirTimeIsOver(t *testing.T) {
	inner, faults := &memoryCache{}, &Faults{}
	cache := faults.Cache(inner)
	all := []func(context.Context) error{
		func(ctx context.Context) error { _, err := cache.Get(ctx, "id"); return err },
		func(ctx context.Context) error { return cache.Set(ctx, "id", tier.Item{}, time.Minute) },
		func(ctx context.Context) error { _, err := cache.Add(ctx, "id", tier.Item{}, time.Minute); return err },
		func(ctx context.Context) error {
			_, err := cache.CompareAndSwap(ctx, "id", nil, tier.Item{}, time.Minute)
			return err
		},
	}
	for _, call := range all {
		if err := call(context.Background()); err != nil {
			t.Error(err)
		}
	}
	faults.Stop()
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for _, call := range all {
		if err := call(ended); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want the context's error", err)
		}
	}
	if inner.calls.Load() != int64(len(all)) {
		t.Errorf("a stopped cache was called")
	}
	waiting := make(chan error)
	for _, call := range all {
		go func() { waiting <- call(context.Background()) }()
	}
	faults.Start()
	for range all {
		if err := <-waiting; err != nil {
			t.Error(err)
		}
	}
	if inner.calls.Load() != int64(2*len(all)) {
		t.Errorf("%d calls, want %d", inner.calls.Load(), 2*len(all))
	}
}
