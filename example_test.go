package gaesession_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/icza/session"
	"google.golang.org/appengine/v2"

	"github.com/gaesession/gaesession"
)

// countVisits is a handler of an app.
func countVisits(w http.ResponseWriter, r *http.Request) {
	sessions := session.NewCookieManager(gaesession.NewMemcacheStore(appengine.NewContext(r)))
	defer sessions.Close() // if the handler leaves early

	sess := sessions.Get(r)
	if sess == nil {
		sess = session.NewSession()
		sessions.Add(sess, w)
	}
	visits, _ := sess.Attr("visits").(int)
	sess.SetAttr("visits", visits+1)

	sessions.Close() // saves what was changed
	fmt.Fprintf(w, "Visits: %d\n", visits+1)
}

// A browser that comes three times.
func Example() {
	var cookies []*http.Cookie
	for range 3 {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		for _, c := range cookies {
			r.AddCookie(c)
		}
		w := httptest.NewRecorder()
		countVisits(w, r)
		fmt.Print(w.Body)
		cookies = append(cookies, w.Result().Cookies()...)
	}
	// Output:
	// Visits: 1
	// Visits: 2
	// Visits: 3
}
