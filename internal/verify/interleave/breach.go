//go:build go1.25

package interleave

// A breach breaks the protocol on its way to the services, so that the store
// needs no switch for it. Rules of the protocol that no call shows are left out in
// rules_test.go.
type breach struct {
	// call sees a call of App Engine before it is made, and may answer it itself.
	call func(w *world, c *call, txn *transaction) (response []byte, err error, done bool)
	// unfenced: what a cache shows that has gone back counts.
	unfenced bool
	// plain: scs's own LoadAndSave, which merges nothing, instead of Handler.
	plain bool
}

// breachState is what a breach remembers of a request.
type breachState struct {
	markers int
	pending []byte // a put to be made at the commit
}
