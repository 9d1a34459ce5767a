package clouddatastore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	pb "cloud.google.com/go/datastore/apiv1/datastorepb"

	"github.com/gaesession/gaesession/tier"
)

// probeKind is the kind of the entity that shows what the database does.
const probeKind = "gaesession_probe"

// comparesVersions reports whether the database refuses a commit that is
// conditional on another version than the one that is there. The first caller
// finds it out, others wait for it meanwhile; when it fails, the next one tries.
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
	if err != nil {
		return false, fmt.Errorf("find out what the database does: %w", err)
	}
	b.conditional.Store(&compares)
	return compares, nil
}

// probe writes an entity of its own three times: the second time on condition
// that it is the first, which has to work, and the third time on the same
// condition, which must not.
func (b *Backup) probe(ctx context.Context) (bool, error) {
	name := fmt.Sprintf("%016x%016x", rand.Uint64(), rand.Uint64())
	key := b.keyOfKind(probeKind, name)
	attempt := func(n byte) *pb.Entity {
		return b.entityOf(key, &tier.Record{Value: []byte{n}, Expires: time.Now()})
	}
	first, err := b.commit(ctx, "probe", name, &pb.Mutation{Operation: &pb.Mutation_Upsert{Upsert: attempt(1)}}, nil)
	if err != nil {
		return false, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTime)
		defer cancel()
		// One that stays is in nobody's way.
		_, _ = b.commit(ctx, "probe", name, &pb.Mutation{Operation: &pb.Mutation_Delete{Delete: key}}, nil)
	}()
	if first.Version == 0 {
		return false, nil
	}
	for n, conflict := range []bool{false, true} {
		_, err := b.commit(ctx, "probe", name, replacing(attempt(byte(n+2)), first.Version), nil)
		if err != nil && !conflicts(err) {
			return false, err
		}
		if conflict != (err != nil) {
			return false, nil
		}
	}
	return true, nil
}
