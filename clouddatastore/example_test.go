package clouddatastore_test

import (
	"context"
	"encoding/json"
	"log"
	"net/http"
	"strings"

	"google.golang.org/api/idtoken"

	"github.com/gaesession/gaesession/clouddatastore"
)

// Cloud Scheduler authenticates with an OIDC token of one of the project's service
// accounts:
//
//	gcloud scheduler jobs create http purge-sessions --schedule="*/30 * * * *" \
//		--uri=https://my-app.run.app/purge --attempt-deadline=10m \
//		--oidc-service-account-email=scheduler@my-project.iam.gserviceaccount.com
func ExampleBackup_Purge() {
	const (
		audience = "https://my-app.run.app/purge"
		caller   = "scheduler@my-project.iam.gserviceaccount.com"
	)
	backup, err := clouddatastore.New(context.Background(), "my-project", nil)
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("POST /purge", func(w http.ResponseWriter, r *http.Request) {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		payload, err := idtoken.Validate(r.Context(), token, audience)
		if err != nil || payload.Claims["email"] != caller || payload.Claims["email_verified"] != true {
			http.Error(w, "only for Cloud Scheduler", http.StatusForbidden)
			return
		}
		done, err := backup.Purge(r.Context())
		if err != nil {
			log.Print(err)
			http.Error(w, "purge failed, see the log", http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(done)
	})
}
