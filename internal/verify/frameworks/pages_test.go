package frameworks

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/coder/websocket"
	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/gorilla/mux"
	echov4 "github.com/labstack/echo/v4"
	echov4middleware "github.com/labstack/echo/v4/middleware"
	"github.com/labstack/echo/v5"
	echomiddleware "github.com/labstack/echo/v5/middleware"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/gaesession/gaesession"
	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/tier"
)

// The code of docs/frameworks.md.

var sessions gaesession.Sessions

// visits counts the visits of a logged-in user.
func visits(w http.ResponseWriter, r *http.Request) {
	sess, err := sessions.Get(r)
	if err != nil || sess == nil {
		http.Error(w, "Please log in.", http.StatusUnauthorized)
		return
	}
	n, _ := sess.Attr("visits").(int)
	sess.SetAttr("visits", n+1)
	fmt.Fprintf(w, "Visits: %d", n+1)
}

func chiPage(panics http.Handler) http.Handler {
	r := chi.NewRouter()
	r.Use(middleware.Recoverer, sessions.Handler) // Recoverer outside
	r.Get("/", visits)

	r.Handle("/panic", panics)
	return r
}

func muxPage(panics http.Handler) http.Handler {
	r := mux.NewRouter()
	r.Use(sessions.Handler)
	r.HandleFunc("/", visits)

	r.Handle("/panic", panics)
	return recovered(r)
}

func echo4Page(panics http.Handler) http.Handler {
	e := echov4.New()
	e.Use(echov4middleware.Recover(), echov4.WrapMiddleware(sessions.Handler)) // Recover outside
	e.GET("/", func(c echov4.Context) error {
		sess, err := sessions.Get(c.Request())
		if err != nil || sess == nil {
			return echov4.NewHTTPError(http.StatusUnauthorized, "Please log in.")
		}
		n, _ := sess.Attr("visits").(int)
		sess.SetAttr("visits", n+1)
		return c.String(http.StatusOK, fmt.Sprintf("Visits: %d", n+1))
	})

	e.GET("/panic", echov4.WrapHandler(panics))
	return e
}

func echoPage(panics http.Handler) http.Handler {
	e := echo.New()
	e.Use(echomiddleware.Recover(), echo.WrapMiddleware(sessions.Handler)) // Recover outside
	e.GET("/", func(c *echo.Context) error {
		sess, err := sessions.Get(c.Request())
		if err != nil || sess == nil {
			return echo.NewHTTPError(http.StatusUnauthorized, "Please log in.")
		}
		n, _ := sess.Attr("visits").(int)
		sess.SetAttr("visits", n+1)
		return c.String(http.StatusOK, fmt.Sprintf("Visits: %d", n+1))
	})

	e.GET("/panic", echo.WrapHandler(panics))
	return e
}

func ginPage(panics http.Handler) http.Handler {
	e := gin.New() // gin.Default recovers inside
	e.GET("/", func(c *gin.Context) {
		sess, err := sessions.Get(c.Request)
		if err != nil || sess == nil {
			c.String(http.StatusUnauthorized, "Please log in.")
			return
		}
		n, _ := sess.Attr("visits").(int)
		sess.SetAttr("visits", n+1)
		c.String(http.StatusOK, "Visits: %d", n+1)
	})

	e.GET("/panic", gin.WrapH(panics))
	return recovered(sessions.Handler(e))
}

var store *cascadestore.CascadeStore

func cascadePage() http.Handler {
	r := chi.NewRouter()
	r.Use(middleware.Recoverer, store.Handler)
	r.Get("/", func(w http.ResponseWriter, r *http.Request) {
		session, err := store.Get(r, "session")
		if errors.Is(err, cascadestore.ErrUnavailable) || errors.Is(err, cascadestore.ErrUndecodable) {
			http.Error(w, "Please try again later.", http.StatusServiceUnavailable)
			return
		}
		n, _ := session.Values["visits"].(int)
		session.Values["visits"] = n + 1 // saved by store.Handler
		fmt.Fprintf(w, "Visits: %d", n+1)
	})
	return r
}

// recovered answers 500 when a handler panics.
func recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if v := recover(); v == http.ErrAbortHandler {
				panic(v) // net/http ends the connection
			} else if v != nil {
				http.Error(w, "Internal Server Error", http.StatusInternalServerError)
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// measured returns functions that count what a store does.
func measured(r prometheus.Registerer) *tier.Trace {
	f := promauto.With(r)
	calls := f.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "session_call_seconds",
		Buckets: []float64{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 5},
	}, []string{"service", "operation", "outcome"})
	loads := f.NewCounterVec(prometheus.CounterOpts{Name: "session_loads_total"}, []string{"from"})
	bytes := f.NewHistogram(prometheus.HistogramOpts{
		Name:    "session_bytes",
		Buckets: prometheus.ExponentialBuckets(256, 4, 7),
	})
	open := f.NewGauge(prometheus.GaugeOpts{Name: "session_cache_given_up"})
	pending := f.NewGauge(prometheus.GaugeOpts{Name: "session_pending"})
	return &tier.Trace{
		Call: func(_ context.Context, c tier.Call) {
			calls.WithLabelValues(c.Service, c.Operation, c.Outcome).Observe(c.Duration.Seconds())
		},
		Loaded: func(_ context.Context, l tier.Load) { loads.WithLabelValues(l.From).Inc() },
		Saved: func(_ context.Context, s tier.Save) {
			if s.Err == nil && s.Bytes > 0 {
				bytes.Observe(float64(s.Bytes))
			}
		},
		Breaker: func(_ context.Context, isOpen bool) {
			open.Set(0)
			if isOpen {
				open.Set(1)
			}
		},
		Pending: func(_ context.Context, waiting, _ int) { pending.Set(float64(waiting)) },
	}
}

// A socket counts messages for as long as the user is logged in.
func socket(w http.ResponseWriter, r *http.Request) {
	sess, err := sessions.Get(r)
	if err != nil || sess == nil {
		http.Error(w, "Please log in.", http.StatusUnauthorized)
		return
	}
	conn, err := websocket.Accept(w, r, nil) // saves first, and sends the cookie
	if err != nil {
		return // Accept has answered
	}
	defer conn.CloseNow()
	for n := 1; ; n++ {
		if _, _, err := conn.Read(r.Context()); err != nil {
			return
		}
		sess.SetAttr("messages", n)
		if err := sessions.Save(r); errors.Is(err, gaesession.ErrRemoved) {
			conn.Close(websocket.StatusPolicyViolation, "You are logged out.")
			return
		}
		if err := conn.Write(r.Context(), websocket.MessageText, fmt.Append(nil, n)); err != nil {
			return
		}
	}
}
