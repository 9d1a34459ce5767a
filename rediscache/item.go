package rediscache

import (
	"crypto/rand"
	"encoding/binary"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gaesession/gaesession/tier"
)

// An item is one string in Redis: the fence of the server that took it (40 bytes),
// a random version (8), the end of its key (8), the flags (4, big-endian) and the value.
// All before the flags is the head, which never names another item. The end of the key
// tells if a client gives a call the answer to another one. The scripts get heads and not
// values: Redis 7 takes 5 us to hand 4 KB to a script, because its Lua hashes every
// byte of a string.
const (
	fenceLen = 40
	keyFrom  = fenceLen + 8
	headLen  = keyFrom + 8
	itemLen  = headLen + 4 // without a value
	maxItem  = itemLen + MaxValue

	// unstamped is the fence of an item that no server has taken yet.
	unstamped = "----------------------------------------"
)

// A buffer has the bytes of an item that is sent. Buffers are reused, because
// otherwise every call would leave as much garbage as it sends.
type buffer struct{ bytes []byte }

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// free returns the buffer for reuse, unless it is large.
func (b *buffer) free() {
	if cap(b.bytes) <= 64<<10 {
		buffers.Put(b)
	}
}

// newItem returns the bytes of an item of a key with a new version.
func newItem(fence, key string, it tier.Item) (*buffer, error) {
	if len(it.Value) > MaxValue {
		return nil, tier.ErrTooLarge
	}
	var version [keyFrom - fenceLen]byte
	if _, err := rand.Read(version[:]); err != nil {
		return nil, err
	}
	b := buffers.Get().(*buffer)
	b.bytes = append(b.bytes[:0], fence...)
	b.bytes = append(b.bytes, version[:]...)
	b.bytes = append(b.bytes, key[len(key)-(headLen-keyFrom):]...)
	b.bytes = binary.BigEndian.AppendUint32(b.bytes, it.Flags)
	b.bytes = append(b.bytes, it.Value...)
	return b, nil
}

// isOf reports whether bytes are those of an item of that key.
func isOf(item, key string) bool {
	return len(item) >= itemLen && len(item) <= maxItem && strings.HasSuffix(key, item[keyFrom:headLen])
}

// parse is the reverse of newItem. It gets the head and what follows it.
func parse(head string, rest []byte) *tier.Item {
	return &tier.Item{
		Flags: binary.BigEndian.Uint32(rest),
		Value: rest[itemLen-headLen:],
		Token: head,
	}
}

// masterFence returns the fence of the server that answered INFO replication so,
// or "" if it is not a master.
func masterFence(answer *redis.StringCmd) string {
	info := answer.Val() // empty if there is none
	_, id, ok := strings.Cut(info, "\nmaster_replid:")
	if !ok || len(id) < fenceLen || !strings.Contains(info, "\nrole:master\r") {
		return ""
	}
	return id[:fenceLen]
}

// milliseconds returns a ttl as Redis takes it, rounded up.
func milliseconds(ttl time.Duration) int64 { return int64((ttl-1)/time.Millisecond) + 1 }
