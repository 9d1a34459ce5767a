package gaesession

import (
	"context"
	"testing"
	"time"

	"github.com/icza/session"

	"github.com/gaesession/gaesession/tier/tiertest"
)

// A heldSession waits when it is asked whether it is new, which Add does last
// before it adds it.
type heldSession struct {
	session.Session
	asked, answer chan bool
}

func (s heldSession) New() bool {
	s.asked <- true
	return <-s.answer
}

func TestASessionIsThereForAGetAsSoonAsItIsAdded(t *testing.T) {
	store := newStore(context.Background(), &MemcacheStoreOptions{Cache: tiertest.NewCache(), Backup: tiertest.NewBackup()})
	sess := heldSession{session.NewSession(), make(chan bool), make(chan bool)}
	added := make(chan bool)
	go func() {
		store.Add(sess)
		close(added)
	}()
	<-sess.asked
	store.mu.Lock() // Add cannot go further than to the copy
	sess.answer <- true
	e := store.first
	for until := time.Now().Add(10 * time.Second); !e.copy.Exists(); {
		if time.Now().After(until) {
			t.Fatal("Add does not add")
		}
		time.Sleep(time.Millisecond)
	}
	there := e.sess != nil
	store.mu.Unlock()
	if !there {
		t.Error("a Get that finds the session added finds no value")
	}
	<-added
}
