package main

import (
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/icza/session"

	"github.com/gaesession/gaesession"
)

// visit lets a browser visit an app three times, which counts that in a session,
// and prints the app's last answer.
func visit(options gaesession.MemcacheStoreOptions) {
	sessions := gaesession.Sessions{Options: options}
	app := sessions.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sess, err := sessions.Get(r)
		if err == nil && sess == nil {
			sess = session.NewSession()
			err = sessions.Add(r, sess)
		}
		if err != nil {
			log.Fatal(err)
		}
		visits, _ := sess.Attr("visits").(int)
		sess.SetAttr("visits", visits+1)
		fmt.Fprintln(w, "Visits:", visits+1)
	}))
	if err := sessions.Err(); err != nil {
		log.Fatal(err)
	}
	var cookies []*http.Cookie
	var answer *httptest.ResponseRecorder
	for range 3 {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		for _, c := range cookies {
			r.AddCookie(c)
		}
		answer = httptest.NewRecorder()
		app.ServeHTTP(answer, r)
		if answer.Code != http.StatusOK {
			log.Fatal(answer.Code, " ", answer.Body)
		}
		cookies = append(cookies, answer.Result().Cookies()...)
	}
	fmt.Print(answer.Body)
}
