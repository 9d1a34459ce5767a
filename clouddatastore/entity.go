package clouddatastore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	pb "cloud.google.com/go/datastore/apiv1/datastorepb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gaesession/gaesession/tier"
)

// https://cloud.google.com/datastore/docs/concepts/limits
const (
	// An entity may take 1 MiB less 4 bytes.
	maxEntity = 1<<20 - 4
	// Beside names and value an entity has a time, the application's id, a
	// namespace of up to 100 bytes, and what holds them together. With what is
	// left for the value it is below the limit of a property as well.
	entityOverhead = 220
	// maxName is how long a key's name may be.
	maxName = 1500
)

// Fits reports whether Datastore takes a value of that many bytes.
func (b *Backup) Fits(id string, size int) bool {
	o := &b.options
	names := len(o.Kind) + len(o.Prefix) + len(id) + len(o.Value) + len(o.Expires)
	return size <= maxEntity-entityOverhead-names
}

// ValidID reports whether Datastore takes that id as part of a key's name: at
// most 1500 bytes of UTF-8 with the prefix, without NUL, and not of the form
// __x__.
func (b *Backup) ValidID(id string) bool {
	name := b.options.Prefix + id
	reserved := len(name) >= 4 && strings.HasPrefix(name, "__") && strings.HasSuffix(name, "__")
	return id != "" && len(name) <= maxName && utf8.ValidString(name) && !strings.Contains(name, "\x00") && !reserved
}

func (b *Backup) key(id string) *pb.Key { return b.keyOfKind(b.options.Kind, b.options.Prefix+id) }

func (b *Backup) keyOfKind(kind, name string) *pb.Key {
	return &pb.Key{
		PartitionId: b.partition(),
		Path:        []*pb.Key_PathElement{{Kind: kind, IdType: &pb.Key_PathElement_Name{Name: name}}},
	}
}

func (b *Backup) partition() *pb.PartitionId {
	return &pb.PartitionId{ProjectId: b.project, DatabaseId: b.options.Database, NamespaceId: b.options.Namespace}
}

// entity returns what App Engine's API writes: the same types, and the same of
// them indexed.
func (b *Backup) entity(id string, r *tier.Record) *pb.Entity {
	return b.entityOf(b.key(id), r)
}

func (b *Backup) entityOf(key *pb.Key, r *tier.Record) *pb.Entity {
	return &pb.Entity{Key: key, Properties: map[string]*pb.Value{
		b.options.Value:   {ValueType: &pb.Value_BlobValue{BlobValue: r.Value}, ExcludeFromIndexes: true},
		b.options.Expires: {ValueType: &pb.Value_TimestampValue{TimestampValue: timestamp(r.Expires)}},
	}}
}

// timestamp is a time as Datastore keeps it, to the microsecond.
func timestamp(t time.Time) *timestamppb.Timestamp {
	return timestamppb.New(t.Truncate(time.Microsecond))
}

func (b *Backup) record(e *pb.EntityResult) (*tier.Record, error) {
	value, ok1 := e.GetEntity().GetProperties()[b.options.Value].GetValueType().(*pb.Value_BlobValue)
	expires, ok2 := e.GetEntity().GetProperties()[b.options.Expires].GetValueType().(*pb.Value_TimestampValue)
	if !ok1 || !ok2 {
		return nil, fmt.Errorf("clouddatastore: %w: entity of kind %s lacks property %s or %s, or has it with another type",
			tier.ErrRejected, b.options.Kind, b.options.Value, b.options.Expires)
	}
	return &tier.Record{
		Value:   value.BlobValue,
		Expires: expires.TimestampValue.AsTime(),
		Token:   token(e.Version),
	}, nil
}

// same reports whether Datastore cannot tell two records apart.
func same(a, b *tier.Record) bool {
	return a != nil && b != nil && bytes.Equal(a.Value, b.Value) &&
		a.Expires.Truncate(time.Microsecond).Equal(b.Expires.Truncate(time.Microsecond))
}

// tokenMark begins a token, so that another service's is not taken for one.
const tokenMark = 'v'

// token returns the token of an entity's version, none where it has none.
func token(version int64) []byte {
	if version == 0 {
		return nil
	}
	return binary.BigEndian.AppendUint64([]byte{tokenMark}, uint64(version))
}

// version returns what a token was made of; 0: nothing that is known here.
func version(r *tier.Record) int64 {
	if r == nil || len(r.Token) != 9 || r.Token[0] != tokenMark {
		return 0
	}
	return int64(binary.BigEndian.Uint64(r.Token[1:]))
}
