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
	// What an entity has besides names and value: a time, the application's id, a
	// namespace of up to 100 bytes, and what holds them together. What is left for
	// the value is below the limit of a property as well.
	entityOverhead = 220
	// maxName is how long a key's name may be.
	maxName = 1500
)

// MaxValue returns how many bytes a session of that id may have: 1 MiB less the
// names and some 220 bytes.
func (b *Backup) MaxValue(id string) int {
	o := &b.options
	return max(0, maxEntity-entityOverhead-len(o.Kind)-len(b.name(id))-len(o.Value)-len(o.Expires))
}

// ValidID reports whether Datastore can keep a record under that id: the name of
// its key is UTF-8 without NUL, has at most 1500 bytes, and is not the escaped
// name of another one.
func (b *Backup) ValidID(id string) bool {
	name := b.name(id)
	unescaped, ends := strings.CutSuffix(b.options.Prefix+id, escape)
	return id != "" && len(name) <= maxName && utf8.ValidString(name) && !strings.Contains(name, "\x00") &&
		!(ends && reserved(unescaped))
}

// name returns the name of the key for an id: the same as with App Engine's API,
// which escapes the names that Datastore reserves.
func (b *Backup) name(id string) string {
	name := b.options.Prefix + id
	if reserved(name) {
		name += escape
	}
	return name
}

// escape is no letter of base64 or base32, so no id that is drawn ends with it.
const escape = "."

// reserved reports whether a name has the form __x__.
func reserved(name string) bool {
	return len(name) >= 4 && strings.HasPrefix(name, "__") && strings.HasSuffix(name, "__")
}

func (b *Backup) key(id string) *pb.Key { return b.keyOfKind(b.options.Kind, b.name(id)) }

func (b *Backup) keyOfKind(kind, name string) *pb.Key {
	return &pb.Key{
		PartitionId: b.partition(),
		Path:        []*pb.Key_PathElement{{Kind: kind, IdType: &pb.Key_PathElement_Name{Name: name}}},
	}
}

// nameOf returns the name in a key, empty where it has none.
func nameOf(key *pb.Key) string {
	path := key.GetPath()
	if len(path) == 0 {
		return ""
	}
	return path[len(path)-1].GetName()
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

// A token is this mark and the entity's version in 8 bytes. No other Backup of
// this repository has tokens that begin so, or that have this length.
const tokenMark = "cloud:"

func token(version int64) []byte {
	return binary.BigEndian.AppendUint64([]byte(tokenMark), uint64(version))
}

// version returns the version that a token stands for; 0: it is none of ours, or
// the service did not tell the version.
func version(token []byte) int64 {
	v, ours := bytes.CutPrefix(token, []byte(tokenMark))
	if !ours || len(v) != 8 {
		return 0
	}
	return int64(binary.BigEndian.Uint64(v))
}

// isVersion reports whether what is there, nil: nothing, is the version that a
// token stands for.
func isVersion(there *tier.Record, token []byte) bool {
	if there == nil {
		return len(token) == 0
	}
	v := version(token)
	return v != 0 && v == version(there.Token)
}
