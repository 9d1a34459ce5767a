// Command _gae_session_demo is a web app with a login whose sessions are kept
// by gaesession. It shows where the session came from in each request and what
// that took.
//
// Started anywhere but on App Engine it runs Memcache and Datastore itself, with
// a file for the Datastore, so that a login survives a restart:
//
//	go run ./_gae_session_demo
//
// On App Engine, and under dev_appserver.py, it uses the services that are
// there; app.yaml and cron.yaml are for deploying it.
package main

import (
	"net/http"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/internal/demo"
)

func main() { sessionDemo.Main() }

// sessionDemo starts the web app. An app that runs on App Engine alone needs
// nothing of internal/demo: it serves its handler at the port that PORT names
// and, if it saves asynchronously, calls Drain after a SIGTERM, when the
// requests have ended.
var sessionDemo = demo.Demo{
	Name:    "gae_session_demo",
	Title:   "session demo",
	Keeps:   "Sessions",
	Port:    "8080",
	AppID:   "gaesession-demo",
	Handler: func(p demo.Place) (http.Handler, error) { return newHandler(p) },
	Drain:   gaesession.Drain,
}

// newHandler returns the web app for where it runs.
func newHandler(p demo.Place) (http.Handler, error) {
	a := newApp(&demo.Stage{
		Package: "gaesession", Where: p.Services, Cache: "Memcache", Backup: "Datastore", Cookie: cookieName, Faults: p.Faults,
		Still: "You are still logged in",
		Footer: "A page that only looks makes one call to Memcache. A page that changes the session saves it in Datastore, in one transaction, " +
			"where the later change of each attribute wins: requests that overlap lose nothing.",
	}, p.HTTPS)
	return a.handler(), a.sessions.Err()
}
