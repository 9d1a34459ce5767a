package clouddatastore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	pb "cloud.google.com/go/datastore/apiv1/datastorepb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gaesession/gaesession/tier"
)

// probeKind is the kind of the entities that show what the database does.
const probeKind = "gaesession_probe"

// comparesVersions reports whether the database refuses a commit that is
// conditional on another version than the one that is there. The first caller
// finds out while others wait. If it cannot, the next caller tries.
func (b *Backup) comparesVersions(ctx context.Context) (bool, error) {
	if known := b.conditional.Load(); known != nil {
		return *known, nil
	}
	select {
	case b.probing <- struct{}{}:
		defer func() { <-b.probing }()
	case <-ctx.Done():
		return false, fmt.Errorf("clouddatastore: find out what the database does: %w", context.Cause(ctx))
	}
	if known := b.conditional.Load(); known != nil {
		return *known, nil
	}
	compares, err := b.probe(ctx)
	switch status.Code(err) {
	case codes.OK:
	case codes.InvalidArgument, codes.Unimplemented: // it does not know such commits
		compares = false
	default:
		return false, fmt.Errorf("find out what the database does: %w", err)
	}
	b.conditional.Store(&compares)
	return compares, nil
}

// probe makes the commits that updates rely on, with two entities that nobody
// else knows. Each commit that must be refused is followed or preceded by one of
// the same kind that must not be.
func (b *Backup) probe(ctx context.Context) (bool, error) {
	names := []string{probeName(), probeName()}
	one, other := b.keyOfKind(probeKind, names[0]), b.keyOfKind(probeKind, names[1])
	entity := func(key *pb.Key, value byte) *pb.Entity { // other values, so that each commit is a change
		return b.entityOf(key, &tier.Record{Value: []byte{value}, Expires: time.Now()})
	}
	made, err := b.commit(ctx, "probe", names, nil, upserting(entity(one, 1)), upserting(entity(other, 1)))
	if err != nil {
		return false, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTime)
		defer cancel()
		// If this fails the entities stay, and do no harm.
		_, _ = b.commit(ctx, "probe", names, nil, deleting(one), deleting(other))
	}()
	stale, right := made[0].Version, made[1].Version
	if stale == 0 || right == 0 {
		return false, nil
	}
	accepts := func(mutations ...*pb.Mutation) (version int64, accepted bool, err error) {
		res, err := b.commit(ctx, "probe", names, nil, mutations...)
		switch status.Code(err) {
		case codes.OK:
			return res[0].Version, true, nil
		case codes.FailedPrecondition: // a conflict, and nothing else
			return 0, false, nil
		}
		return 0, false, err
	}
	current, accepted, err := accepts(replacing(entity(one, 2), stale))
	if err != nil || !accepted {
		return false, err
	}
	if _, accepted, err = accepts(replacing(entity(one, 3), stale)); err != nil || accepted {
		return false, err
	}
	if _, accepted, err = accepts(replacing(entity(other, 4), right), replacing(entity(one, 4), stale)); err != nil || accepted {
		return false, err
	}
	// This is refused if the last one has written anything.
	_, accepted, err = accepts(replacing(entity(other, 5), right), replacing(entity(one, 5), current))
	return accepted, err
}

func probeName() string { return fmt.Sprintf("%016x%016x", rand.Uint64(), rand.Uint64()) }
