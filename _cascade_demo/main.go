// Command _cascade_demo is a small shop with a basket, whose gorilla sessions
// are kept by cascadestore. It shows where the session came from in each request
// and what that took.
//
// Started anywhere but on App Engine it runs Memcache and Datastore itself, with
// a file for the Datastore, so that a basket survives a restart:
//
//	go run ./_cascade_demo
//
// On App Engine, and under dev_appserver.py, it uses the services that are
// there; app.yaml and cron.yaml are for deploying it.
package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"

	"github.com/gaesession/gaesession/cascadestore"
	"github.com/gaesession/gaesession/internal/demo"
)

// keySize is the size of the key that signs the cookies, in bytes.
const keySize = 32

func main() { cascadeDemo.Main() }

// cascadeDemo starts the shop. An app that runs on App Engine alone needs
// nothing of internal/demo: it serves its handler at the port that PORT names.
var cascadeDemo = demo.Demo{
	Name:    "cascade_demo",
	Title:   "basket demo",
	Keeps:   "Baskets",
	Port:    "8081",
	AppID:   "cascadestore-demo",
	Handler: newHandler,
	Drain:   cascadestore.Drain,
}

// newHandler returns the shop for where it runs.
func newHandler(p demo.Place) (http.Handler, error) {
	sessionKey := keyOfTheApp
	if p.Local {
		sessionKey = func() ([]byte, error) { return localKey(p.Data) }
	}
	key, err := sessionKey()
	if err != nil {
		return nil, err
	}
	s, err := newShop(key, p.HTTPS, &demo.Stage{
		Package: "cascadestore", Where: p.Services, Cache: "Memcache", Backup: "Datastore", Cookie: cookieName, Faults: p.Faults,
		Still: "Your basket is still here",
		Footer: "A message like “Pears were put into your basket” is a flash: to show it once, the session has to be changed, in a Datastore " +
			"transaction. A page without one makes one call to Memcache.",
	})
	if err != nil {
		return nil, err
	}
	return s.handler(), nil
}

// keyOfTheApp returns the key that app.yaml sets: all instances need the same.
func keyOfTheApp() ([]byte, error) {
	key, err := hex.DecodeString(os.Getenv("SESSION_KEY"))
	if err != nil || len(key) < keySize {
		return nil, fmt.Errorf("SESSION_KEY in app.yaml has to be %d bytes in hexadecimal at least: openssl rand -hex %d", keySize, keySize)
	}
	return key, nil
}

// localKey returns a key that is kept in the folder dir, or one that is
// forgotten, when dir is empty.
func localKey(dir string) ([]byte, error) {
	if dir == "" {
		return newKey()
	}
	path := filepath.Join(dir, "cookie.key")
	key, err := os.ReadFile(path)
	if err == nil && len(key) != keySize {
		err = fmt.Errorf("%d bytes, want %d", len(key), keySize)
	}
	if errors.Is(err, fs.ErrNotExist) {
		if key, err = newKey(); err == nil {
			err = os.WriteFile(path, key, 0o600)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("key of the cookies in %s (-data chooses another folder): %w", path, err)
	}
	return key, nil
}

func newKey() ([]byte, error) {
	key := make([]byte, keySize)
	_, err := rand.Read(key)
	return key, err
}
