//go:build go1.25

package gaesession_test

import (
	"net/http"
	"testing"

	"github.com/gaesession/gaesession/tier/tiertest"
)

func protected(app http.Handler) http.Handler {
	protection := http.NewCrossOriginProtection()
	return protection.Handler(app)
}

func TestRecipeOfCSRFProtection(t *testing.T) {
	v := visitor{app: protected(newShop(tiertest.NewCache(), tiertest.NewBackup()).handler())}
	if got := v.visit("POST", "/login?user=ada", "Sec-Fetch-Site", "same-origin"); got.Code != http.StatusSeeOther {
		t.Fatalf("the app's own form gets status %d", got.Code)
	}
	for _, site := range []string{"cross-site", "same-site"} {
		if got := v.visit("POST", "/note?text=x", "Sec-Fetch-Site", site); got.Code != http.StatusForbidden {
			t.Errorf("a form of another page, %s: status %d, want 403", site, got.Code)
		}
	}
	expectBody(t, v.visit("GET", "/"), "Hello ada[] 30m0s")
}
