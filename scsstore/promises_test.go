package scsstore_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/gaesession/gaesession/internal/verify/gaetest"
	"github.com/gaesession/gaesession/scsstore"
)

// The promises, through HTTP requests that really overlap. Where a test goes
// through the calls of a request one by one, it holds the request at its first
// call, then at its second, and so on until the request has no such call.

// P1: no lost update.

func TestOverlappingChangesOfDifferentKeysAllSurvive(t *testing.T) {
	onEach(t, func(t *testing.T, a *app) {
		b := a.login(t, values{"n": 0})
		want := values{"n": 0}
		const requests = 6
		var loaded, saved sync.WaitGroup
		loaded.Add(requests)
		for i := range requests {
			key := fmt.Sprintf("key%d", i)
			want[key] = i
			saved.Add(1)
			go func() {
				defer saved.Done()
				err := b.clone().use(func(ctx context.Context) {
					loaded.Done()
					loaded.Wait() // nobody saves before all have loaded
					a.manager.Put(ctx, key, i)
				}).err
				if err != nil {
					t.Errorf("request %d: %v", i, err)
				}
			}()
		}
		saved.Wait()
		b.expect(t, want)
	})
}

func TestChangeSurvivesAnotherOneAtAnyOfItsCalls(t *testing.T) {
	onEach(t, func(t *testing.T, a *app) {
		for _, evicted := range []bool{false, true} {
			t.Run(fmt.Sprintf("evicted=%v", evicted), func(t *testing.T) {
				atEachCall(t, func(t *testing.T, k int) bool {
					b := a.login(t, values{"n": 0, "gone": true})
					if evicted {
						a.service.Flush()
					}
					reached, hook := gaetest.Interpose(k, func() {
						if err := b.clone().change(values{"theirs": "b", "gone": nil}); err != nil {
							t.Errorf("their change: %v", err)
						}
					})
					if err := b.change(values{"mine": "a"}, hook); err != nil {
						t.Error(err)
					}
					if !reached.Load() {
						return false
					}
					b.expect(t, values{"n": 0, "theirs": "b", "mine": "a"})
					return true
				})
			})
		}
	})
}

func TestChangesOfOneSessionOnOneInstanceAreSavedTogether(t *testing.T) {
	onEach(t, func(t *testing.T, a *app) {
		b := a.login(t, values{"n": 0})
		want := values{"n": 0}
		instance := a.service.NewRequest() // for all of them
		const requests = 30
		var loaded, saved sync.WaitGroup
		loaded.Add(requests)
		for i := range requests {
			key := fmt.Sprint(i)
			want[key] = i
			saved.Add(1)
			go func() {
				defer saved.Done()
				v := &visit{request: instance, handler: func(_ http.ResponseWriter, r *http.Request) {
					loaded.Done()
					loaded.Wait()
					a.manager.Put(r.Context(), key, i)
				}}
				r := httptest.NewRequest(http.MethodGet, "/", nil)
				r.AddCookie(&http.Cookie{Name: a.manager.Cookie.Name, Value: b.token()})
				if a.answer(v, httptest.NewRecorder(), r); v.err != nil {
					t.Errorf("request %d: %v", i, v.err)
				}
			}()
		}
		saved.Wait()
		commits := 0
		for _, c := range instance.Calls() {
			if c.Method == "Commit" {
				commits++
			}
		}
		// Those that come while one is saved wait, and are saved together. How many
		// come one by one at the end depends on the machine.
		if commits > requests/2 {
			t.Errorf("%d changes took %d transactions", requests, commits)
		}
		b.expect(t, want)
	})
}

func TestOnTheSameKeyTheLastOneSavedWins(t *testing.T) {
	withAndWithoutHandler(t, func(t *testing.T, a *app) {
		b := a.login(t, values{"k": 0})
		err := b.use(func(ctx context.Context) {
			b.clone().mustChange(t, values{"k": 1})
			a.manager.Put(ctx, "k", 2)
		}).err
		if err != nil {
			t.Error(err)
		}
		b.expect(t, values{"k": 2})
	})
}

func TestKeysOfAnyNameAreMerged(t *testing.T) {
	onEach(t, func(t *testing.T, a *app) {
		for _, key := range []string{"", "deadline", "key deadline", "key ", "\x00", "\xff\xfe", "h:", "ключ"} {
			b := a.login(t, values{"n": 0, key: "x"})
			err := b.use(func(ctx context.Context) {
				b.clone().mustChange(t, values{key: "theirs"})
				a.manager.Put(ctx, "mine", 1)
			}).err
			if err != nil {
				t.Error(err)
			}
			b.expect(t, values{"n": 0, key: "theirs", "mine": 1})
		}
	})
}

func TestWithoutHandlerTheLastOneToCommitWins(t *testing.T) {
	onEach(t, func(t *testing.T, a *app) {
		a.plain = true
		b := a.login(t, values{"n": 0, "gone": 1})
		err := b.use(func(ctx context.Context) {
			b.clone().mustChange(t, values{"n": 1, "theirs": 1})
			a.set(ctx, values{"mine": 1, "gone": nil})
		}).err
		if err != nil {
			t.Error(err)
		}
		b.expect(t, values{"n": 0, "mine": 1})
	})
}

// P2: no resurrection.

func TestRemovedSessionStaysRemovedWhenARequestIsInFlight(t *testing.T) {
	withAndWithoutHandler(t, func(t *testing.T, a *app) {
		for _, changes := range []bool{true, false} {
			for _, evicted := range []bool{false, true} {
				t.Run(fmt.Sprintf("changes=%v, evicted=%v", changes, evicted), func(t *testing.T) {
					atEachCall(t, func(t *testing.T, k int) bool {
						b := a.login(t, values{"n": 0})
						old := b.clone()
						if evicted {
							a.service.Flush()
						}
						reached, hook := gaetest.Interpose(k, func() {
							if err := b.clone().logout(); err != nil {
								t.Errorf("logout: %v", err)
							}
						})
						found := false
						err := b.use(func(ctx context.Context) {
							found = a.manager.Token(ctx) != ""
							if changes {
								a.manager.Put(ctx, "mine", "a")
							}
						}, hook).err
						if !reached.Load() {
							return false
						}
						if err != nil && !errors.Is(err, scsstore.ErrRemoved) {
							t.Error(err)
						}
						// The browser may have a new session by now. The old cookie
						// leads nowhere.
						old.expect(t, nil)
						if !found && changes && b.token() == old.token() {
							t.Error("the token of a removed session was used again")
						}
						return true
					})
				})
			}
		}
	})
}

func TestARequestThatChangesARemovedSessionGetsErrRemovedAndNoCookie(t *testing.T) {
	withAndWithoutHandler(t, func(t *testing.T, a *app) {
		b := a.login(t, values{"n": 0})
		other := b.clone()
		v := b.use(func(ctx context.Context) {
			other.mustLogout(t)
			a.manager.Put(ctx, "n", 1)
		})
		if !errors.Is(v.err, scsstore.ErrRemoved) {
			t.Errorf("got %v, want ErrRemoved", v.err)
		}
		if c := v.response.Cookies(); len(c) > 0 {
			t.Errorf("got cookies %v, want none", c)
		}
		b.expect(t, nil)
	})
}

func TestACommitOfADeletedTokenIsErrRemovedWhoeverDeletedIt(t *testing.T) {
	withAndWithoutHandler(t, func(t *testing.T, a *app) {
		for who, isOther := range map[string]bool{"another request": true, "this request": false} {
			b := a.login(t, values{"n": 0})
			token := b.token()
			b.use(func(ctx context.Context) {
				data, found, err := a.store.FindCtx(ctx, token)
				if err != nil || !found {
					t.Fatalf("got %v, %v", found, err)
				}
				if isOther {
					err = b.clone().logout()
				} else {
					err = a.store.DeleteCtx(ctx, token)
				}
				if err != nil {
					t.Errorf("%s: %v", who, err)
				}
				for range 2 {
					if err := a.store.CommitCtx(ctx, token, changed(t, data), later()); !errors.Is(err, scsstore.ErrRemoved) {
						t.Errorf("deleted by %s: got %v, want ErrRemoved", who, err)
					}
				}
				if err := a.store.DeleteCtx(ctx, token); err != nil {
					t.Errorf("deleted by %s, and again: %v", who, err)
				}
			})
			b.expect(t, nil)
		}
	})
}

func TestALogoutIsFinalWhileTheTokenIsRenewed(t *testing.T) {
	withAndWithoutHandler(t, func(t *testing.T, a *app) {
		atEachCall(t, func(t *testing.T, k int) bool {
			b := a.login(t, values{"n": 0})
			old := b.clone()
			reached, hook := gaetest.Interpose(k, func() {
				if err := old.clone().logout(); err != nil {
					t.Errorf("logout: %v", err)
				}
			})
			var rerr error
			v := b.use(func(ctx context.Context) { rerr = a.manager.RenewToken(ctx) }, hook)
			if err := errors.Join(rerr, v.err); err != nil && !errors.Is(err, scsstore.ErrRemoved) {
				t.Error(err)
			}
			old.expect(t, nil)
			return reached.Load()
		})
	})
}

// P3: read your writes.

func TestSavedSessionIsSeenByTheNextRequest(t *testing.T) {
	withAndWithoutHandler(t, func(t *testing.T, a *app) {
		b := a.login(t, values{"n": 0})
		for n := 1; n < 5; n++ {
			b.mustChange(t, values{"n": n})
			b.expectNow(t, "next request", values{"n": n})
			if n == 3 {
				a.service.Flush()
			}
		}
	})
}

// P4: Memcache may vanish. See time_test.go, also for P6, a crash between any
// two calls.

func TestNothingSavedIsLostWhenMemcacheIsFlushedAtAnyCall(t *testing.T) {
	withAndWithoutHandler(t, func(t *testing.T, a *app) {
		atEachCall(t, func(t *testing.T, k int) bool {
			b := a.login(t, values{"n": 0})
			reached, hook := gaetest.Interpose(k, a.service.Flush)
			if err := b.change(values{"n": 1}, hook); err != nil {
				t.Error(err)
			}
			b.expect(t, values{"n": 1})
			return reached.Load()
		})
	})
}

// P5: Datastore may be down.

func TestSessionsLiveOnInMemcacheWhileDatastoreIsDown(t *testing.T) {
	onBoth(t, func(t *testing.T, a *app) {
		down := gaetest.Fail(gaetest.Datastore)
		b := a.login(t, values{"n": 0, "gone": true})
		during := func(what string, change, want values) {
			t.Helper()
			// The change is seen by every load, so the app's answer goes out.
			if err := b.change(change, down); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			if !a.hasReported(scsstore.ErrNotBackedUp) {
				t.Errorf("%s: OnError did not get ErrNotBackedUp", what)
			}
			if got, err := b.read(down); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s: got %v, %v; want %v", what, got, err, want)
			}
		}
		during("first change", values{"n": 1, "gone": nil}, values{"n": 1})
		during("second change", values{"m": 1}, values{"n": 1, "m": 1})
		// The next change brings Datastore up to date.
		b.mustChange(t, values{"up": true})
		b.expect(t, values{"n": 1, "m": 1, "up": true})
	})
}

func TestAChangeThatNoServiceTookIsErrNotSavedAndSetsNoCookie(t *testing.T) {
	withAndWithoutHandler(t, func(t *testing.T, a *app) {
		down := gaetest.Fail(func(c gaetest.Call) bool { return c.Method != "Get" })
		b := a.newBrowser()
		v := b.use(func(ctx context.Context) { a.manager.Put(ctx, "n", 1) }, down)
		if !errors.Is(v.err, scsstore.ErrNotSaved) {
			t.Errorf("got %v, want ErrNotSaved", v.err)
		}
		if v.response.StatusCode != http.StatusInternalServerError || b.token() != "" {
			t.Errorf("got status %d and a cookie: %v; want ErrorFunc's answer, and none", v.response.StatusCode, b.token() != "")
		}
	})
}

func TestALogoutThatNoServiceTookIsErrNotSaved(t *testing.T) {
	withAndWithoutHandler(t, func(t *testing.T, a *app) {
		b := a.login(t, values{"n": 0})
		down := func(c gaetest.Call) bool { return c.Method != "Get" }
		up := a.service.Break(down) // in the background as well
		err := b.logout(gaetest.Fail(down))
		up()
		if !errors.Is(err, scsstore.ErrNotSaved) {
			t.Errorf("got %v, want ErrNotSaved", err)
		}
		if b.token() == "" {
			t.Error("scs ended the cookie of a session that it could not destroy")
		}
		drain(t)
	})
}

// P9: unknown is not none.

func TestWhenNobodyCanTellTheSessionIsNeitherReplacedNorLost(t *testing.T) {
	withAndWithoutHandler(t, func(t *testing.T, a *app) {
		b := a.login(t, values{"n": 0})
		token := b.token()
		down := gaetest.Fail(func(gaetest.Call) bool { return true })
		served := false
		v := b.use(func(context.Context) { served = true }, down)
		if !errors.Is(v.err, scsstore.ErrUnavailable) || !errors.Is(v.err, gaetest.ErrFailed) {
			t.Errorf("got %v, want ErrUnavailable and the services' error", v.err)
		}
		if served {
			t.Error("the app served a request whose session is not known")
		}
		if c := v.response.Cookies(); len(c) > 0 || b.token() != token {
			t.Errorf("the browser got another cookie: %v", c)
		}
		b.expect(t, values{"n": 0})
	})
}

func TestAServiceThatAnotherOneMakesUpForIsReportedAndNoError(t *testing.T) {
	onBoth(t, func(t *testing.T, a *app) {
		b := a.login(t, values{"n": 0})
		if got, err := b.read(gaetest.Fail(gaetest.Memcache)); err != nil || got["n"] != 0 {
			t.Errorf("got %v, %v", got, err)
		}
		if !a.hasReported(gaetest.ErrFailed) {
			t.Error("OnError did not get the error of Memcache")
		}
		drain(t)
	})
}

// P11: nobody else's things.

func TestWhatIsNoTokenIsNoSession(t *testing.T) {
	withAndWithoutHandler(t, func(t *testing.T, a *app) {
		for _, token := range []string{"h:x", "owner:x", text(300), "a b", "__x__", "..", "h.x"} {
			b := a.newBrowser()
			b.setToken(token)
			if got, err := b.read(); err != nil || got != nil {
				t.Errorf("%q: got %v, %v; want no session", token, got, err)
			}
			b.mustChange(t, values{"n": 1})
			if b.token() == token {
				t.Errorf("%q: a session was saved under it", token)
			}
			b.expectNow(t, "now", values{"n": 1})
		}
		ctx := a.service.NewRequest().Context()
		for _, token := range []string{"", "h:x", "owner:x", text(2000), "x\x00", "\xff"} {
			if b, found, err := a.store.FindCtx(ctx, token); b != nil || found || err != nil {
				t.Errorf("%q: FindCtx got %q, %v, %v", token, b, found, err)
			}
			if err := a.store.CommitCtx(ctx, token, []byte("x"), later()); !errors.Is(err, scsstore.ErrInvalidID) {
				t.Errorf("%q: CommitCtx got %v, want ErrInvalidID", token, err)
			}
			if err := a.store.DeleteCtx(ctx, token); err != nil {
				t.Errorf("%q: DeleteCtx got %v", token, err)
			}
		}
	})
}

func TestAVisitorReadsAndChangesNothingButSessions(t *testing.T) {
	onBoth(t, func(t *testing.T, a *app) {
		for name, prefix := range map[string]string{"another prefix": "", "the same prefix": scsstore.DefaultKeyPrefix} {
			a.putItem(t, prefix+"greeting", "hello")
			b := a.newBrowser()
			b.setToken("greeting")
			if got, err := b.read(); err != nil || got != nil {
				t.Errorf("%s: got %v, %v; want no session", name, got, err)
			}
			if err := b.logout(); err != nil {
				t.Errorf("%s: logout: %v", name, err)
			}
			ctx := a.service.NewRequest().Context()
			if err := a.store.DeleteCtx(ctx, "greeting"); err != nil {
				t.Errorf("%s: DeleteCtx: %v", name, err)
			}
			if got := a.item(t, prefix+"greeting"); got != "hello" {
				t.Errorf("%s: the app's item is %q", name, got)
			}
		}
	})
}
