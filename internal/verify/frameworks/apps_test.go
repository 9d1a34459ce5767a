package frameworks

import (
	"errors"
	"io"
	"net/http"
	"os"

	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/gorilla/mux"
	echov4 "github.com/labstack/echo/v4"
	echov5 "github.com/labstack/echo/v5"
)

type wrapper = func(http.Handler) http.Handler

// A framework makes the app of these tests in its own way. Its routes are:
//
//	/text      status 201 and "hello"
//	/string    "hello", the writer being an io.StringWriter
//	/redirect  to /text
//	/empty     status 204
//	/nothing   returns without having sent anything
//	/file      the file called name
//	/error     an error, given to the framework: status 418
//	/stream    two events, the writer being an http.Flusher
//	/socket    what socket does
type framework struct {
	name string
	// Returns the app, with use as its middleware, if that is not nil.
	app func(use wrapper, file string, socket http.Handler) http.Handler
	// Whether it takes a func(http.Handler) http.Handler as middleware.
	takesMiddleware bool
}

var frameworks = []framework{
	{"chi", chiApp, true},
	{"gin", ginApp, false},
	{"echo v4", echo4App, true},
	{"echo v5", echo5App, true},
	{"mux", muxApp, true},
}

var (
	errTeapot = errors.New("a teapot")
	events    = []string{"data: 1\n\n", "data: 2\n\n"}
)

// The routes of a framework whose handlers are those of net/http.

func text(w http.ResponseWriter, _ *http.Request) {
	w.WriteHeader(http.StatusCreated)
	_, _ = io.WriteString(w, "hello")
}

func stringOnly(w http.ResponseWriter, _ *http.Request) {
	_, _ = w.(io.StringWriter).WriteString("hello")
}

func redirect(w http.ResponseWriter, r *http.Request) {
	http.Redirect(w, r, "/text", http.StatusSeeOther)
}

func empty(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }

func nothing(http.ResponseWriter, *http.Request) {}

func serveFile(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, name) }
}

func fail(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, errTeapot.Error(), http.StatusTeapot)
}

func stream(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	for _, event := range events {
		_, _ = io.WriteString(w, event)
		w.(http.Flusher).Flush()
	}
}

func chiApp(use wrapper, file string, socket http.Handler) http.Handler {
	r := chi.NewRouter()
	if use != nil {
		r.Use(use)
	}
	r.Use(func(next http.Handler) http.Handler { // as its logger, compressor and others do
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(middleware.NewWrapResponseWriter(w, r.ProtoMajor), r)
		})
	})
	r.Get("/text", text)
	r.Get("/string", func(w http.ResponseWriter, r *http.Request) { // chi's own writer is none
		stringOnly(w.(middleware.WrapResponseWriter).Unwrap(), r)
	})
	r.Get("/redirect", redirect)
	r.Get("/empty", empty)
	r.Get("/nothing", nothing)
	r.Get("/file", serveFile(file))
	r.Get("/error", fail)
	r.Get("/stream", stream)
	r.Handle("/socket", socket)
	return r
}

func muxApp(use wrapper, file string, socket http.Handler) http.Handler {
	r := mux.NewRouter()
	if use != nil {
		r.Use(use)
	}
	for path, handler := range map[string]http.HandlerFunc{
		"/text": text, "/string": stringOnly, "/redirect": redirect, "/empty": empty, "/nothing": nothing,
		"/file": serveFile(file), "/error": fail, "/stream": stream, "/socket": socket.ServeHTTP,
	} {
		r.HandleFunc(path, handler)
	}
	return r
}

func ginApp(_ wrapper, file string, socket http.Handler) http.Handler {
	gin.SetMode(gin.ReleaseMode)
	e := gin.New()
	e.GET("/text", func(c *gin.Context) { c.String(http.StatusCreated, "hello") })
	e.GET("/string", func(c *gin.Context) { _, _ = c.Writer.WriteString("hello") })
	e.GET("/redirect", func(c *gin.Context) { c.Redirect(http.StatusSeeOther, "/text") })
	e.GET("/empty", func(c *gin.Context) { c.Status(http.StatusNoContent) })
	e.GET("/nothing", func(*gin.Context) {})
	e.GET("/file", func(c *gin.Context) { c.File(file) })
	e.GET("/error", func(c *gin.Context) { _ = c.AbortWithError(http.StatusTeapot, errTeapot) })
	e.GET("/stream", func(c *gin.Context) {
		c.Header("Content-Type", "text/event-stream")
		left := events
		c.Stream(func(w io.Writer) bool { // asks for CloseNotify
			_, _ = io.WriteString(w, left[0])
			left = left[1:]
			return len(left) > 0
		})
	})
	e.GET("/socket", gin.WrapH(socket))
	return e
}

func echo4App(use wrapper, file string, socket http.Handler) http.Handler {
	e := echov4.New()
	if use != nil {
		e.Use(echov4.WrapMiddleware(use))
	}
	e.GET("/text", func(c echov4.Context) error { return c.String(http.StatusCreated, "hello") })
	e.GET("/string", func(c echov4.Context) error {
		stringOnly(c.Response().Writer, c.Request())
		return nil
	})
	e.GET("/redirect", func(c echov4.Context) error { return c.Redirect(http.StatusSeeOther, "/text") })
	e.GET("/empty", func(c echov4.Context) error { return c.NoContent(http.StatusNoContent) })
	e.GET("/nothing", func(echov4.Context) error { return nil })
	e.GET("/file", func(c echov4.Context) error { // c.File sees the working directory only
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		return errors.Join(c.Stream(http.StatusOK, "text/plain", f), f.Close())
	})
	e.GET("/error", func(echov4.Context) error { return echov4.NewHTTPError(http.StatusTeapot, errTeapot) })
	e.GET("/stream", func(c echov4.Context) error {
		stream(c.Response(), c.Request())
		return nil
	})
	e.GET("/socket", echov4.WrapHandler(socket))
	return e
}

func echo5App(use wrapper, file string, socket http.Handler) http.Handler {
	e := echov5.New()
	if use != nil {
		e.Use(echov5.WrapMiddleware(use))
	}
	e.GET("/text", func(c *echov5.Context) error { return c.String(http.StatusCreated, "hello") })
	e.GET("/string", func(c *echov5.Context) error {
		inner, err := echov5.UnwrapResponse(c.Response())
		if err != nil {
			return err
		}
		stringOnly(inner.Unwrap(), c.Request())
		return nil
	})
	e.GET("/redirect", func(c *echov5.Context) error { return c.Redirect(http.StatusSeeOther, "/text") })
	e.GET("/empty", func(c *echov5.Context) error { return c.NoContent(http.StatusNoContent) })
	e.GET("/nothing", func(*echov5.Context) error { return nil })
	e.GET("/file", func(c *echov5.Context) error {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		return errors.Join(c.Stream(http.StatusOK, "text/plain", f), f.Close())
	})
	e.GET("/error", func(*echov5.Context) error {
		return echov5.NewHTTPError(http.StatusTeapot, errTeapot.Error())
	})
	e.GET("/stream", func(c *echov5.Context) error {
		stream(c.Response(), c.Request())
		return nil
	})
	e.GET("/socket", echov5.WrapHandler(socket))
	return e
}
