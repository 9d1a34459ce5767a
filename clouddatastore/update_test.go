package clouddatastore_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"testing"

	pb "cloud.google.com/go/datastore/apiv1/datastorepb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gaesession/gaesession/clouddatastore"
	"github.com/gaesession/gaesession/tier"
)

// noCall is the function of an update that must not call it.
func noCall(t *testing.T) updateFunc {
	return func(current []*tier.Record) ([]*tier.Record, error) {
		t.Errorf("f was called, with %v", current)
		return make([]*tier.Record, len(current)), nil
	}
}

// commits reports whether a call is a commit, and none of a probe.
func commits(req any) bool {
	_, ok := req.(*pb.CommitRequest)
	return ok && !probes(req)
}

// atCommits calls f before each commit that is none of a probe. If f returns an
// error the commit is not made, and that is the answer.
func atCommits(f func() error) grpc.UnaryClientInterceptor {
	return before(func(_ context.Context, _ string, req any) error {
		if commits(req) {
			return f()
		}
		return nil
	})
}

func TestARightGuessIsWrittenWithoutACallOfF(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		b, ctx := open(t, d, inNewNamespace()), context.Background()
		there, removed, none := newID(), newID(), newID()
		for id, token := range map[string][]byte{
			there:   put(t, b, there, "old").Token,
			removed: put(t, b, removed, "").Token,
			none:    nil,
		} {
			for _, value := range []string{"new", "newer", ""} {
				next := newRecord(value)
				must(t, b.Update(ctx, []string{id}, &tier.Guess{Token: token, Next: next}, noCall(t)))
				if got := wantsRecord(t, b, id, *next, "after the update"); !bytes.Equal(got.Token, next.Token) {
					t.Errorf("the update set the token %q, but it is %q", next.Token, got.Token)
				}
				token = next.Token
			}
		}
	})
}

func TestAWrongGuessIsNotWrittenAndFIsCalledWithWhatIsThere(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		b, ctx := open(t, d, inNewNamespace()), context.Background()
		of := newID()
		old := put(t, b, of, "old").Token
		sum := sha256.Sum256([]byte("App Engine's"))
		for name, token := range map[string][]byte{
			"of an earlier version": old,
			"of a later version":    append(slices.Clone(old[:len(old)-8]), 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
			"of a negative version": append(slices.Clone(old[:len(old)-8]), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
			"empty":                 nil,
			"App Engine's":          sum[:],
			"of one byte":           {1},
			"as long as ours":       []byte("other:\x00\x00\x00\x00\x00\x00\x00\x02"),
			"as long as can be":     []byte("of another service, perhaps, and as long as a token may be: ####"),
			"longer than ours":      append(slices.Clone(old), 0),
			"shorter than ours":     old[:len(old)-1],
			"without a version":     append(slices.Clone(old[:len(old)-8]), make([]byte, 8)...),
		} {
			for _, value := range []string{"there", "", "-"} {
				id := newID()
				var want *tier.Record
				if value != "-" {
					want = put(t, b, id, value)
				} else if token == nil {
					continue // that is right
				}
				seen, calls, next := []*tier.Record(nil), 0, newRecord("made of what is there")
				must(t, b.Update(ctx, []string{id}, &tier.Guess{Token: token, Next: newRecord("guessed")}, func(current []*tier.Record) ([]*tier.Record, error) {
					seen = current
					calls++
					return []*tier.Record{next}, nil
				}))
				if calls != 1 || len(seen) != 1 || (seen[0] == nil) != (want == nil) ||
					want != nil && (string(seen[0].Value) != value || !seen[0].Expires.Equal(want.Expires) || !bytes.Equal(seen[0].Token, want.Token)) {
					t.Errorf("a token %s: %d calls of f, the last with %v, want one with %v", name, calls, seen, want)
				}
				if got := wantsRecord(t, b, id, *next, "after the update"); !bytes.Equal(got.Token, next.Token) {
					t.Errorf("a token %s: the update set the token %q, but it is %q", name, next.Token, got.Token)
				}
			}
		}
	})
}

func TestTokensAreShortAndNameOneVersion(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		b, id := open(t, d, inNewNamespace()), newID()
		seen := map[string]bool{}
		for range 3 {
			token := put(t, b, id, "the same").Token
			if len(token) == 0 || len(token) > 64 || len(token) == sha256.Size || seen[string(token)] {
				t.Errorf("got the token %q, want a new one of up to 64 bytes that is no hash", token)
			}
			seen[string(token)] = true
		}
	})
}

func TestSeveralRecordsChangeTogetherInTheOrderOfIDs(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		b, ctx := open(t, d, inNewNamespace()), context.Background()
		ids := []string{newID(), newID(), newID(), newID()}
		put(t, b, ids[0], "a")
		put(t, b, ids[1], "")
		put(t, b, ids[3], "d")
		var seen []string
		next := []*tier.Record{newRecord("A"), newRecord("B"), newRecord("C"), newRecord("")}
		must(t, b.Update(ctx, ids, nil, func(current []*tier.Record) ([]*tier.Record, error) {
			for _, r := range current {
				if r == nil {
					seen = append(seen, "-")
				} else {
					seen = append(seen, string(r.Value))
				}
			}
			return next, nil
		}))
		if want := []string{"a", "", "-", "d"}; !slices.Equal(seen, want) {
			t.Errorf("f got %q, want %q", seen, want)
		}
		for i, id := range ids {
			if got := wantsRecord(t, b, id, *next[i], "after the update"); !bytes.Equal(got.Token, next[i].Token) {
				t.Errorf("the update set the token %q, but it is %q", next[i].Token, got.Token)
			}
			must(t, b.Update(ctx, []string{id}, &tier.Guess{Token: next[i].Token, Next: newRecord("+")}, noCall(t)))
		}
	})
}

// Each of several mutations is the one that a rival conflicts with.
func TestAConflictWithOneRecordWritesNothingOfTheOthers(t *testing.T) {
	onEachThatComparesVersions(t, func(t *testing.T, d database) {
		for conflicting := range 3 {
			for _, what := range []string{"changed", "inserted"} {
				o, ctx := inNewNamespace(), context.Background()
				rival := open(t, d, o)
				ids := []string{newID(), newID(), newID()}
				for i, id := range ids {
					if i != conflicting || what == "changed" {
						put(t, rival, id, "old")
					}
				}
				attempts := 0
				b := open(t, d, o, atCommits(func() error {
					if attempts++; attempts == 1 {
						put(t, rival, ids[conflicting], "rival's")
					}
					if attempts == 2 { // the first has failed
						want := []string{"old", "old", "old"}
						want[conflicting] = "rival's"
						wantsValues(t, rival, ids, want...)
					}
					return nil
				}))
				calls := 0
				must(t, b.Update(ctx, ids, nil, func(current []*tier.Record) ([]*tier.Record, error) {
					calls++
					return appending("+")(current)
				}))
				want := []string{"old+", "old+", "old+"}
				want[conflicting] = "rival's+"
				wantsValues(t, b, ids, want...)
				if calls != 2 {
					t.Errorf("record %d %s meanwhile: %d calls of f, want 2", conflicting, what, calls)
				}
			}
		}
	})
}

func TestAnErrorOfFIsReturnedAsItIsAndNothingIsWritten(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		b, ctx := open(t, d, inNewNamespace()), context.Background()
		ids := []string{newID(), newID()}
		before := put(t, b, ids[0], "old")
		for _, refusal := range []error{
			errors.New("refused"), tier.ErrContention, tier.ErrTooLarge, status.Error(codes.Aborted, "f's own"),
		} {
			refuse := func(current []*tier.Record) ([]*tier.Record, error) {
				return []*tier.Record{newRecord("x"), newRecord("x")}[:len(current)], refusal
			}
			for _, err := range []error{
				b.Update(ctx, ids, nil, refuse),
				b.Update(ctx, ids[:1], nil, refuse),
				b.Update(ctx, ids[:1], &tier.Guess{Next: newRecord("x")}, refuse),
			} {
				if err != refusal {
					t.Errorf("got %v, want %v as it is", err, refusal)
				}
			}
		}
		wantsValues(t, b, ids, "old", "-")
		if got := get(t, b, ids[0]); !bytes.Equal(got.Token, before.Token) {
			t.Error("the record was written again")
		}
	})
}

func TestARecordThatFLeavesIsNotWritten(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		b, ctx := open(t, d, inNewNamespace()), context.Background()
		ids := []string{newID(), newID(), newID()}
		before := put(t, b, ids[0], "left")
		put(t, b, ids[1], "old")
		must(t, b.Update(ctx, ids, nil, to(nil, newRecord("new"), nil)))
		wantsValues(t, b, ids, "left", "new", "-")
		must(t, b.Update(ctx, ids, nil, to(nil, nil, nil)))
		wantsValues(t, b, ids, "left", "new", "-")
		if after := get(t, b, ids[0]); !bytes.Equal(before.Token, after.Token) {
			t.Error("the record was written again")
		}
	})
}

func TestAChangeOfARecordThatFLeavesIsNoConflict(t *testing.T) {
	onEachThatComparesVersions(t, func(t *testing.T, d database) {
		o := inNewNamespace()
		rival, ids := open(t, d, o), []string{newID(), newID()}
		put(t, rival, ids[0], "left")
		put(t, rival, ids[1], "old")
		b := open(t, d, o, atCommits(func() error {
			put(t, rival, ids[0], "rival's")
			return nil
		}))
		calls := 0
		must(t, b.Update(context.Background(), ids, nil, func([]*tier.Record) ([]*tier.Record, error) {
			calls++
			return []*tier.Record{nil, newRecord("new")}, nil
		}))
		wantsValues(t, b, ids, "rival's", "new")
		if calls != 1 {
			t.Errorf("%d calls of f, want 1", calls)
		}
	})
}

func TestAnUpdateWhoseAnswerIsLostIsNotRepeated(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		for _, code := range []codes.Code{codes.Unavailable, codes.DeadlineExceeded, codes.Internal} {
			var calls calls
			b := open(t, d, inNewNamespace(), calls.intercept, func(ctx context.Context, method string, req, reply any, c *grpc.ClientConn, invoke grpc.UnaryInvoker, o ...grpc.CallOption) error {
				err := invoke(ctx, method, req, reply, c, o...)
				if commits(req) && err == nil {
					err = status.Error(code, "no answer")
				}
				return err
			})
			ctx, ids, rounds := context.Background(), []string{newID(), newID()}, 0
			wantsLost := func(what string, err error) {
				t.Helper()
				if status.Code(err) != code || errors.Is(err, tier.ErrNotWritten) || errors.Is(err, tier.ErrContention) || errors.Is(err, tier.ErrUnreachable) {
					t.Errorf("%s: got %v, want an error that does not say that nothing was written", what, err)
				}
				got := calls.since()
				if made := slices.DeleteFunc(slices.Clone(got), func(name string) bool { return name != "Commit" }); len(made) != 1 {
					t.Errorf("%s: got the calls %v, want one commit", what, got)
				}
			}
			wantsLost("a guess", b.Update(ctx, ids[:1], &tier.Guess{Next: newRecord("guessed")}, func(current []*tier.Record) ([]*tier.Record, error) {
				rounds++
				return appending("+")(current)
			}))
			wantsLost("two records", b.Update(ctx, ids, nil, func(current []*tier.Record) ([]*tier.Record, error) {
				rounds++
				return appending("+")(current)
			}))
			wantsValues(t, b, ids, "guessed+", "+")
			if rounds != 1 {
				t.Errorf("%d calls of f, want one for the update without a guess", rounds)
			}
		}
	})
}

func TestARefusalRestsOnWhatWasRead(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		down := false
		b := open(t, d, inNewNamespace(), before(func(_ context.Context, _ string, req any) error {
			if _, lookup := req.(*pb.LookupRequest); lookup && down {
				return status.Error(codes.Unavailable, "out of order")
			}
			return nil
		}))
		ctx, id := context.Background(), newID()
		must(t, b.Update(ctx, []string{id}, nil, to(newRecord("removed"))))
		stale := get(t, b, id)
		put(t, b, id, "there")
		down = true
		err := b.Update(ctx, []string{id}, &tier.Guess{Token: stale.Token, Next: newRecord("x")}, func([]*tier.Record) ([]*tier.Record, error) {
			t.Error("f was called, although nothing was read")
			return nil, tier.ErrRemoved
		})
		if status.Code(err) != codes.Unavailable || !errors.Is(err, tier.ErrNotWritten) {
			t.Errorf("got %v, want the failure of the lookup, and ErrNotWritten", err)
		}
		down = false
		wantsValues(t, b, []string{id}, "there")
	})
}

// It is right only at the first look, or not at all.
func TestAGuessThatWasWrongStaysWrong(t *testing.T) {
	onEachThatComparesVersions(t, func(t *testing.T, d database) {
		o, id := inNewNamespace(), newID()
		put(t, open(t, d, o), id, "there")
		attempts := 0
		b := open(t, d, o, atCommits(func() error {
			if attempts++; attempts == 2 { // the first was the guess
				deleteEntity(t, d, o.Namespace, id)
			}
			return nil
		}))
		var seen []*tier.Record
		must(t, b.Update(context.Background(), []string{id}, &tier.Guess{Next: newRecord("guessed")}, func(current []*tier.Record) ([]*tier.Record, error) {
			seen = append(seen, current...)
			return []*tier.Record{newRecord("made")}, nil
		}))
		if len(seen) != 2 || seen[0] == nil || seen[1] != nil {
			t.Errorf("f got %v, want the record, and then nothing", seen)
		}
		wantsValues(t, b, []string{id}, "made")
	})
}

func TestAGuessThatIsTooLarge(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		b, ctx, id := open(t, d, inNewNamespace()), context.Background(), newID()
		large := record(strings.Repeat("x", b.MaxValue(id)+1))
		token := put(t, b, id, "there").Token
		if err := b.Update(ctx, []string{id}, &tier.Guess{Token: token, Next: &large}, noCall(t)); !errors.Is(err, tier.ErrTooLarge) {
			t.Errorf("a guess that is right: got %v, want ErrTooLarge", err)
		}
		wantsValues(t, b, []string{id}, "there")
		must(t, b.Update(ctx, []string{id}, &tier.Guess{Next: &large}, appending("+")))
		wantsValues(t, b, []string{id}, "there+")
	})
}

func TestOneOfSeveralRecordsThatIsTooLargeWritesNone(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		b, ids := open(t, d, inNewNamespace()), []string{newID(), newID()}
		large := record(strings.Repeat("x", b.MaxValue(ids[1])+1))
		if err := b.Update(context.Background(), ids, nil, to(newRecord("small"), &large)); !errors.Is(err, tier.ErrTooLarge) {
			t.Errorf("got %v, want ErrTooLarge", err)
		}
		wantsValues(t, b, ids, "-", "-")
	})
}

// They are more than gRPC takes in one answer by default.
func TestSeveralRecordsOfTheLargestSizeAreRead(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		b := open(t, d, inNewNamespace())
		ids, largest := make([]string, 5), ""
		for i := range ids {
			ids[i] = newID()
			largest = strings.Repeat("x", b.MaxValue(ids[i]))
			put(t, b, ids[i], largest)
		}
		must(t, b.Update(context.Background(), ids, nil, func(current []*tier.Record) ([]*tier.Record, error) {
			for i, r := range current {
				if r == nil || string(r.Value) != largest {
					t.Errorf("record %d is not what was written", i)
				}
			}
			return make([]*tier.Record, len(current)), nil
		}))
	})
}

func TestContentionWithoutAnotherVersionLeavesAGuessRight(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		aborts := 0
		b := open(t, d, inNewNamespace(), atCommits(func() error {
			if aborts++; aborts <= 3 {
				return status.Error(codes.Aborted, "too much contention on these entities")
			}
			return nil
		}))
		id := newID()
		must(t, b.Update(context.Background(), []string{id}, &tier.Guess{Next: newRecord("guessed")}, noCall(t)))
		wantsValues(t, b, []string{id}, "guessed")
	})
}

func TestAContextThatEndsBetweenRoundsSaysThatNothingWasWritten(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		ctx, cancel := context.WithCancel(context.Background())
		b := open(t, d, inNewNamespace(), atCommits(func() error {
			cancel()
			return status.Error(codes.Aborted, "too much contention on these entities")
		}))
		ids := []string{newID(), newID()}
		err := b.Update(ctx, ids, nil, appending("+"))
		if !errors.Is(err, context.Canceled) || !errors.Is(err, tier.ErrNotWritten) {
			t.Errorf("got %v, want the end of the context, and ErrNotWritten", err)
		}
		wantsValues(t, b, ids, "-", "-")
	})
}

func TestFReturnsARecordForEachID(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		b, ids := open(t, d, inNewNamespace()), []string{newID(), newID()}
		for _, f := range []updateFunc{to(), to(newRecord("one")), to(nil, nil, newRecord("three"))} {
			if err := b.Update(context.Background(), ids, nil, f); !errors.Is(err, tier.ErrRejected) {
				t.Errorf("got %v, want ErrRejected", err)
			}
		}
		wantsValues(t, b, ids, "-", "-")
	})
}

func TestAGuessThatTheContractDoesNotAllowIsNone(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		b, ids := open(t, d, inNewNamespace()), []string{newID(), newID()}
		must(t, b.Update(context.Background(), ids, &tier.Guess{Next: newRecord("guessed")}, appending("+")))
		wantsValues(t, b, ids, "+", "+")
		must(t, b.Update(context.Background(), ids[:1], &tier.Guess{}, appending("+")))
		wantsValues(t, b, ids, "++", "+")
		must(t, b.Update(context.Background(), nil, &tier.Guess{Next: newRecord("guessed")}, to()))
	})
}

func TestWhatAnUpdateWasGivenBelongsToTheCaller(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		b, ctx, ids := open(t, d, inNewNamespace()), context.Background(), []string{newID(), newID()}
		guess := &tier.Guess{Next: newRecord("guessed")}
		must(t, b.Update(ctx, ids[:1], guess, noCall(t)))
		guess.Next.Value[0], guess.Next.Token[0] = 'X', 'X'
		next := []*tier.Record{newRecord("first"), newRecord("second")}
		var seen []*tier.Record
		must(t, b.Update(ctx, ids, nil, func(current []*tier.Record) ([]*tier.Record, error) {
			seen = current
			return next, nil
		}))
		if string(seen[0].Value) != "guessed" {
			t.Errorf("got %q, want what the guess was then", seen[0].Value)
		}
		for _, r := range next {
			r.Value[0], r.Token[0] = 'X', 'X'
		}
		seen[0].Value[0], next[0], next[1] = 'X', nil, nil
		wantsValues(t, b, ids, "first", "second")
	})
}

// A service may leave some of the keys to another call.
func TestADeferredLookupGoesOn(t *testing.T) {
	lookups := 0
	b, _ := serve(t, clouddatastore.Options{}, func(_ context.Context, req any) (any, error) {
		switch req := req.(type) {
		case *pb.LookupRequest:
			lookups++
			return &pb.LookupResponse{Missing: []*pb.EntityResult{{Entity: &pb.Entity{Key: req.Keys[0]}}}, Deferred: req.Keys[1:]}, nil
		case *pb.CommitRequest:
			return &pb.CommitResponse{MutationResults: make([]*pb.MutationResult, len(req.Mutations))}, nil
		}
		return nil, errors.New("another call")
	})
	must(t, b.Update(context.Background(), []string{newID(), newID(), newID()}, nil, appending("+")))
	if lookups != 3 {
		t.Errorf("%d lookups, want 3", lookups)
	}
}

func entityNamed(name string) *pb.EntityResult {
	return &pb.EntityResult{Version: 1, Entity: &pb.Entity{
		Key: &pb.Key{Path: []*pb.Key_PathElement{{Kind: "sess_", IdType: &pb.Key_PathElement_Name{Name: name}}}},
		Properties: map[string]*pb.Value{
			"val": {ValueType: &pb.Value_BlobValue{}}, "exp": {ValueType: &pb.Value_TimestampValue{}},
		},
	}}
}

func TestALookupThatLeavesOutAnEntityIsAnError(t *testing.T) {
	for name, answer := range map[string]func(keys []*pb.Key) *pb.LookupResponse{
		"all of them": func([]*pb.Key) *pb.LookupResponse { return &pb.LookupResponse{} },
		"one of them": func(keys []*pb.Key) *pb.LookupResponse {
			return &pb.LookupResponse{Missing: []*pb.EntityResult{{Entity: &pb.Entity{Key: keys[0]}}}}
		},
		"deferred for ever": func(keys []*pb.Key) *pb.LookupResponse { return &pb.LookupResponse{Deferred: keys} },
		"another one": func(keys []*pb.Key) *pb.LookupResponse {
			return &pb.LookupResponse{Missing: []*pb.EntityResult{{}}, Found: []*pb.EntityResult{entityNamed("another")}}
		},
		"one without a key": func(keys []*pb.Key) *pb.LookupResponse {
			e := entityNamed("another")
			e.Entity.Key = nil
			return &pb.LookupResponse{Missing: []*pb.EntityResult{{}}, Found: []*pb.EntityResult{e}}
		},
	} {
		b, _ := serve(t, clouddatastore.Options{}, func(_ context.Context, req any) (any, error) {
			return answer(req.(*pb.LookupRequest).Keys), nil
		})
		if err := b.Update(context.Background(), []string{newID(), newID()}, nil, noCall(t)); err == nil || !errors.Is(err, tier.ErrNotWritten) {
			t.Errorf("%s: got %v, want an error that says that nothing was written", name, err)
		}
	}
}
