package clouddatastore

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"time"

	pb "cloud.google.com/go/datastore/apiv1/datastorepb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gaesession/gaesession/tier"
)

const (
	// rounds is how often an update tries to be faster than the others.
	rounds = 10
	// Before each further round it waits for up to firstWait, then for up to twice
	// that, and so on.
	firstWait, longestWait = 20 * time.Millisecond, 2 * time.Second
	// transactionTime is how long a transaction may take: others may wait for it.
	transactionTime = 30 * time.Second
	// rollbackTime is how long a rollback may outlast the request.
	rollbackTime = 5 * time.Second
)

// updateFunc makes what is to replace the current records.
type updateFunc = func(current []*tier.Record) ([]*tier.Record, error)

// Update implements [tier.Backup]. A guess that is right takes one call.
// Otherwise each attempt takes two: a lookup of all the records, and a commit. In
// a database that does not compare versions an attempt is a transaction.
func (b *Backup) Update(ctx context.Context, ids []string, guess *tier.Guess, f func(current []*tier.Record) ([]*tier.Record, error)) error {
	for _, id := range ids {
		if !b.ValidID(id) {
			return errInvalidID
		}
	}
	if guess != nil && (len(ids) != 1 || guess.Next == nil) {
		guess = nil // the contract has no such guess
	}
	ctx, cancel := context.WithTimeout(ctx, tier.UpdateTime)
	defer cancel()
	conditional, err := b.comparesVersions(ctx)
	if err != nil {
		return notWritten(err)
	}
	next, attempt := b.next(ids, guess, f), b.updateConditionally
	if !conditional {
		leave, err := b.queue(ctx, ids)
		if err != nil {
			return notWritten(err)
		}
		defer leave()
		attempt = b.updateInTransaction
	} else if guess != nil {
		if wrong, err := b.tryGuess(ctx, ids, guess); !wrong {
			return err
		}
	}
	for round := 0; ; round++ {
		contended, err := attempt(ctx, ids, next)
		if contended == nil {
			return err
		}
		if err := again(ctx, round, contended); err != nil {
			return err
		}
	}
}

// next returns a function of what was read. It returns guess.Next if that is the
// version that was guessed, and otherwise what f makes of it, in either case only
// what the service takes.
func (b *Backup) next(ids []string, guess *tier.Guess, f updateFunc) updateFunc {
	return func(current []*tier.Record) (next []*tier.Record, err error) {
		if guess != nil && isVersion(current[0], guess.Token) {
			next = []*tier.Record{guess.Next}
		} else {
			guess = nil // it was wrong, and stays so
			if next, err = f(current); err != nil {
				return nil, err
			}
		}
		if len(next) != len(ids) {
			return nil, fmt.Errorf("clouddatastore: update: %w: got %d records for %d ids", tier.ErrRejected, len(next), len(ids))
		}
		for i, r := range next {
			if r == nil {
				continue
			}
			if err := b.check(ids[i], r); err != nil {
				return nil, err
			}
		}
		return next, nil
	}
}

// tryGuess commits a guess without a lookup. wrong says that nothing was written,
// and that it takes a lookup to tell why.
func (b *Backup) tryGuess(ctx context.Context, ids []string, guess *tier.Guess) (wrong bool, err error) {
	if b.check(ids[0], guess.Next) != nil || len(guess.Token) > 0 && version(guess.Token) == 0 {
		return true, nil
	}
	var guessed *tier.Record
	if len(guess.Token) > 0 {
		guessed = &tier.Record{Token: guess.Token}
	}
	err = b.replace(ctx, ids, []*tier.Record{guessed}, []*tier.Record{guess.Next}, nil)
	// A version that is later than the one that is there is an invalid argument.
	return conflicts(err) || status.Code(err) == codes.InvalidArgument, err
}

// updateConditionally commits on condition that each record which it replaces is
// the version that was read. contended says that one is not, or that something
// was in the way, and that nothing was written.
func (b *Backup) updateConditionally(ctx context.Context, ids []string, next updateFunc) (contended, err error) {
	current, err := b.lookup(ctx, ids, strong)
	if err != nil {
		return nil, notWritten(err)
	}
	records, err := next(current)
	if err != nil {
		return nil, err
	}
	if err = b.replace(ctx, ids, current, records, nil); conflicts(err) {
		return err, nil
	}
	return nil, err
}

// replace commits the records in next that are not nil, each in place of that in
// current, and sets their tokens.
func (b *Backup) replace(ctx context.Context, ids []string, current, next []*tier.Record, transaction []byte) error {
	var (
		mutations []*pb.Mutation
		replaced  []*tier.Record
	)
	for i, r := range next {
		if r == nil {
			continue
		}
		entity := b.entity(ids[i], r)
		mutation := inserting(entity)
		switch {
		case transaction != nil:
			mutation = upserting(entity)
		case current[i] != nil:
			mutation = replacing(entity, version(current[i].Token))
		}
		mutations, replaced = append(mutations, mutation), append(replaced, r)
	}
	if len(mutations) == 0 {
		return nil
	}
	results, err := b.commit(ctx, "update", ids, transaction, mutations...)
	if errors.Is(err, tier.ErrUnreachable) {
		return notWritten(err)
	}
	if err != nil {
		return err
	}
	for i, r := range replaced {
		r.Token = token(results[i].Version)
	}
	return nil
}

func inserting(e *pb.Entity) *pb.Mutation {
	return &pb.Mutation{Operation: &pb.Mutation_Insert{Insert: e}}
}

func upserting(e *pb.Entity) *pb.Mutation {
	return &pb.Mutation{Operation: &pb.Mutation_Upsert{Upsert: e}}
}

func deleting(key *pb.Key) *pb.Mutation {
	return &pb.Mutation{Operation: &pb.Mutation_Delete{Delete: key}}
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
// of these codes may have other reasons: then the lookup that follows fails as
// well, or the next commit does.
func conflicts(err error) bool {
	switch status.Code(err) {
	case codes.FailedPrecondition, codes.AlreadyExists, codes.NotFound, codes.Aborted:
		return true
	}
	return false
}

// queue waits until no other transaction of this Backup has one of the records.
func (b *Backup) queue(ctx context.Context, ids []string) (leave func(), err error) {
	places := make([]int, len(ids))
	for i, id := range ids {
		places[i] = int(crc32.ChecksumIEEE([]byte(id)) % uint32(len(b.queues)))
	}
	slices.Sort(places) // in one order, so that no two wait for each other
	places = slices.Compact(places)
	taken := 0
	leave = func() {
		for _, place := range places[:taken] {
			<-b.queues[place]
		}
	}
	for _, place := range places {
		select {
		case b.queues[place] <- struct{}{}:
			taken++
		case <-ctx.Done():
			leave()
			return nil, fmt.Errorf("clouddatastore: update: queuing for a transaction: %w", context.Cause(ctx))
		}
	}
	return leave, nil
}

// updateInTransaction replaces the records in a transaction, and waits for nothing
// else inside it: the database may hold others up until it ends. contended says
// that the database has ended it without an effect, for the sake of others.
func (b *Backup) updateInTransaction(ctx context.Context, ids []string, next updateFunc) (contended, err error) {
	ctx, cancel := context.WithTimeout(ctx, transactionTime)
	defer cancel()
	// A lookup could begin the transaction, and save this call. But in Google's
	// Firestore emulator such a one never ends:
	// https://github.com/firebase/firebase-tools/issues/8105
	begun, err := call(ctx, b, "begin", ids, b.client.BeginTransaction, &pb.BeginTransactionRequest{
		ProjectId: b.project, DatabaseId: b.options.Database,
	})
	if err != nil {
		return ended(notWritten(err))
	}
	committed := false
	defer func() {
		if !committed {
			b.rollback(ctx, ids, begun.Transaction)
		}
	}()
	current, err := b.lookup(ctx, ids, &pb.ReadOptions{
		ConsistencyType: &pb.ReadOptions_Transaction{Transaction: begun.Transaction},
	})
	if err != nil {
		return ended(notWritten(err))
	}
	records, err := next(current)
	if err != nil || !slices.ContainsFunc(records, func(r *tier.Record) bool { return r != nil }) {
		return nil, err
	}
	if err := b.replace(ctx, ids, current, records, begun.Transaction); err != nil {
		return ended(err)
	}
	committed = true
	return nil, nil
}

// ended tells an error of a transaction that the database has ended for the sake
// of others from other errors.
func ended(err error) (contended, other error) {
	if errors.Is(err, tier.ErrContention) {
		return err, nil
	}
	return nil, err
}

// rollback ends a transaction even if the request has ended. If it fails, the
// database ends the transaction after a minute.
func (b *Backup) rollback(ctx context.Context, ids []string, transaction []byte) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTime)
	defer cancel()
	_, _ = call(ctx, b, "rollback", ids, b.client.Rollback, &pb.RollbackRequest{
		ProjectId: b.project, DatabaseId: b.options.Database, Transaction: transaction,
	})
}

// again waits before the round after this one, or says that there is none.
func again(ctx context.Context, round int, contended error) error {
	if round == rounds-1 {
		return fmt.Errorf("clouddatastore: update: %w: %d attempts, the last ended with %v", tier.ErrContention, rounds, status.Code(contended))
	}
	wait := time.NewTimer(jitter(min(firstWait<<round, longestWait)))
	defer wait.Stop()
	select {
	case <-wait.C:
		return nil
	case <-ctx.Done():
		return notWritten(fmt.Errorf("clouddatastore: update: contention, then %w", context.Cause(ctx)))
	}
}

// jitter draws a time from zero to limit. The clock is the seed: rivals read it at
// different nanoseconds, and in a test that has its own clock the wait is the same
// each time.
func jitter(limit time.Duration) time.Duration {
	return time.Duration(rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0)).Int64N(int64(limit)))
}
