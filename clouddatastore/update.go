package clouddatastore

import (
	"context"
	"fmt"
	"hash/maphash"
	"strings"
	"time"

	pb "cloud.google.com/go/datastore/apiv1/datastorepb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gaesession/gaesession/internal/retry"
	"github.com/gaesession/gaesession/tier"
)

const (
	// rounds is how often an update tries to be faster than the others.
	rounds = 10
	// Before each further round it waits for a time drawn from zero to
	// firstWait, then twice that, and so on.
	firstWait, longestWait = 20 * time.Millisecond, 2 * time.Second
	// transactionTime is what a transaction may take, that others may wait for.
	transactionTime = 30 * time.Second
	// rollbackTime is what its end may take after that of the request.
	rollbackTime = 5 * time.Second
)

// Update implements [tier.Backup]. With a Token in known it makes one call, and
// two more for each time that others were faster; without one it begins with a
// lookup. Where f(known) wants nothing to be written, a lookup shows that known
// is what is there. In a database that does not compare versions, and once in
// all others, see the package's documentation.
func (b *Backup) Update(ctx context.Context, id string, known *tier.Record, f func(*tier.Record) (*tier.Record, error)) error {
	if !b.ValidID(id) {
		return errInvalidID
	}
	ctx, cancel := context.WithTimeout(ctx, tier.UpdateTime)
	defer cancel()
	conditional, err := b.comparesVersions(ctx)
	if err != nil {
		return notWritten(err)
	}
	if conditional {
		return b.updateConditionally(ctx, id, known, f)
	}
	queue := b.queues[maphash.String(b.seed, id)%uint64(len(b.queues))]
	select {
	case queue <- struct{}{}:
		defer func() { <-queue }()
	case <-ctx.Done():
		return fmt.Errorf("clouddatastore: update: queuing for a transaction: %w", context.Cause(ctx))
	}
	for round := 0; ; round++ {
		contended, err := b.updateInTransaction(ctx, id, f)
		if contended == nil {
			return err
		}
		if err := again(ctx, round, contended); err != nil {
			return err
		}
	}
}

func (b *Backup) updateConditionally(ctx context.Context, id string, known *tier.Record, f func(*tier.Record) (*tier.Record, error)) error {
	current, err := known, error(nil)
	believed := version(known) != 0 // not read
	if !believed {
		if current, err = b.Get(ctx, id); err != nil {
			return notWritten(err)
		}
	}
	for round := 0; ; round++ {
		next, ferr := f(current)
		if ferr == nil && next != nil {
			contended, err := b.replace(ctx, id, current, next)
			if contended == nil {
				return err
			}
			if err := again(ctx, round, contended); err != nil {
				return err
			}
		} else if !believed {
			return ferr
		}
		there, err := b.Get(ctx, id)
		if err != nil {
			if ferr != nil {
				return ferr
			}
			return notWritten(err)
		}
		if believed && (ferr != nil || next == nil) && version(there) == version(known) {
			return ferr
		}
		current, believed = there, false
	}
}

// replace commits next in place of the version that current is. contended says
// that another one is there, or something in the way.
func (b *Backup) replace(ctx context.Context, id string, current, next *tier.Record) (contended, err error) {
	if err := b.check(id, next); err != nil {
		return nil, err
	}
	mutation := &pb.Mutation{Operation: &pb.Mutation_Insert{Insert: b.entity(id, next)}}
	if current != nil {
		mutation = replacing(b.entity(id, next), version(current))
	}
	res, err := b.commit(ctx, "update", id, mutation, nil)
	if err == nil {
		next.Token = token(res.Version)
		return nil, nil
	}
	if conflicts(err) {
		return err, nil
	}
	return nil, err
}

// replacing returns a mutation that is made only if that version is there. The
// whole commit is to fail otherwise: Google's Firestore emulator makes the
// mutation, and reports no conflict, unless told so.
func replacing(e *pb.Entity, version int64) *pb.Mutation {
	return &pb.Mutation{
		Operation:                  &pb.Mutation_Update{Update: e},
		ConflictDetectionStrategy:  &pb.Mutation_BaseVersion{BaseVersion: version},
		ConflictResolutionStrategy: pb.Mutation_FAIL,
	}
}

// conflicts reports whether a conditional commit failed for its condition. Some
// of these codes may have other reasons: then the lookup that follows fails, too.
func conflicts(err error) bool {
	switch status.Code(err) {
	case codes.FailedPrecondition, codes.AlreadyExists, codes.NotFound, codes.Aborted:
		return true
	}
	return false
}

// updateInTransaction lets nothing wait inside the transaction: the database may
// hold others up until it ends. contended says that it has ended for others'
// sake, without an effect.
func (b *Backup) updateInTransaction(ctx context.Context, id string, f func(*tier.Record) (*tier.Record, error)) (contended, err error) {
	ctx, cancel := context.WithTimeout(ctx, transactionTime)
	defer cancel()
	// A lookup could begin the transaction, and save this call. But in Google's
	// Firestore emulator such a one never ends:
	// https://github.com/firebase/firebase-tools/issues/8105
	begun, err := call(ctx, b, "begin", id, b.client.BeginTransaction, &pb.BeginTransactionRequest{
		ProjectId: b.project, DatabaseId: b.options.Database,
	})
	if err != nil {
		return ended(notWritten(err))
	}
	committed := false
	defer func() {
		if !committed {
			b.rollback(ctx, id, begun.Transaction)
		}
	}()
	current, err := b.lookup(ctx, id, &pb.ReadOptions{
		ConsistencyType: &pb.ReadOptions_Transaction{Transaction: begun.Transaction},
	})
	if err != nil {
		return ended(notWritten(err))
	}
	next, err := f(current)
	if err != nil || next == nil {
		return nil, err
	}
	if err := b.check(id, next); err != nil {
		return nil, err
	}
	res, err := b.commit(ctx, "update", id, &pb.Mutation{Operation: &pb.Mutation_Upsert{Upsert: b.entity(id, next)}}, begun.Transaction)
	if err != nil {
		return ended(err)
	}
	committed = true
	next.Token = token(res.Version)
	return nil, nil
}

// ended tells what ended a transaction for others' sake from other errors.
func ended(err error) (contended, other error) {
	switch status.Code(err) {
	case codes.Aborted:
		return err, nil
	case codes.InvalidArgument: // "Transaction is invalid or closed", say
		if strings.Contains(strings.ToLower(err.Error()), "transaction") {
			return err, nil
		}
	}
	return nil, err
}

// rollback ends a transaction also when the request has ended. When it fails the
// database ends it after a minute.
func (b *Backup) rollback(ctx context.Context, id string, transaction []byte) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTime)
	defer cancel()
	_, _ = call(ctx, b, "rollback", id, b.client.Rollback, &pb.RollbackRequest{
		ProjectId: b.project, DatabaseId: b.options.Database, Transaction: transaction,
	})
}

// again waits before the round after this one, or says that there is none.
func again(ctx context.Context, round int, contended error) error {
	if round == rounds-1 {
		return fmt.Errorf("clouddatastore: update: %w: %d attempts, the last ended with %v", tier.ErrContention, rounds, status.Code(contended))
	}
	if err := retry.Wait(ctx, retry.Jitter(ctx, min(firstWait<<round, longestWait))); err != nil {
		return fmt.Errorf("clouddatastore: update: contention, then %w", err)
	}
	return nil
}
