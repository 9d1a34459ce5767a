package gaelocal

import (
	"testing"

	"github.com/gaesession/gaesession/internal/wire"
	"google.golang.org/protobuf/proto"
)

func TestOfTwoChangesInABatchThatDependOnOneGroupTheFirstWins(t *testing.T) {
	s := newStore()
	key := encodeKey(&wire.Reference{App: proto.String("a"), Path: &wire.Path{
		Element: []*wire.Path_Element{{Type: proto.String("K"), Name: proto.String("n")}},
	}})
	_, version := s.snapshot(key.root)
	newChange := func() *change {
		return &change{reads: map[string]uint64{key.root: version}, writes: []write{{key, &entity{key: key}}}}
	}
	first, second, blind := newChange(), newChange(), &change{writes: []write{{key: key}}}
	accepted := s.decide([]*change{first, second, blind})
	if len(accepted) != 2 || accepted[0] != first || accepted[1] != blind {
		t.Errorf("accepted %d changes, want the first and the one that depends on nothing", len(accepted))
	}
	if second.err != errConcurrent {
		t.Errorf("the second change's error is %v, want %v", second.err, errConcurrent)
	}
}
