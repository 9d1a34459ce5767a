package gaelocal

import (
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/gaesession/gaesession/internal/wire"
)

// Limits of the service, as in Google's memcache_stub.py.
const (
	maxMemcacheKey   = 250
	maxMemcacheValue = 1<<20 - maxMemcacheKey - 73 // 73 bytes are an item's overhead

	// An expiration above this many seconds is a time since 1970, not from now.
	maxRelativeExpiration = 30 * 24 * 60 * 60
)

// memcache is the memcache service: a map whose items form a ring from the most
// to the least recently used.
type memcache struct {
	maxBytes int64

	mu       sync.Mutex // guards what follows
	items    map[itemKey]*item
	ring     item // sentinel: next is the newest, prev the oldest
	bytes    int64
	lastCAS  uint64
	hits     uint64
	misses   uint64
	byteHits uint64
}

type itemKey struct{ namespace, key string }

// item is one item. Its value is never changed in place: answers refer to it.
type item struct {
	key        itemKey
	value      []byte
	flags      uint32
	cas        uint64
	created    time.Time
	lastAccess time.Time
	expires    time.Time // zero: never
	locked     bool      // deleted with a time during which it cannot be added
	prev, next *item
}

func newMemcache(maxBytes int64) *memcache {
	m := &memcache{maxBytes: maxBytes}
	m.clear()
	return m
}

func (m *memcache) clear() {
	m.items = make(map[itemKey]*item)
	m.ring.prev, m.ring.next = &m.ring, &m.ring
	m.bytes, m.hits, m.misses, m.byteHits = 0, 0, 0, 0
}

func (m *memcache) flush() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clear()
}

func (m *memcache) evict(namespace, key string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	it := m.lookup(itemKey{namespace, key}, time.Now())
	if it == nil {
		return false
	}
	m.remove(it)
	return true
}

// operation reads the request of a call and returns how to execute it.
func (m *memcache) operation(method string, request []byte) (op operation, failed *Error) {
	const service = "memcache"
	switch method {
	case "Get":
		req := new(wire.MemcacheGetRequest)
		op, failed = understand(service, method, request, req, m.get)
		op.namespace = req.GetNameSpace()
	case "Set":
		req := new(wire.MemcacheSetRequest)
		op, failed = understand(service, method, request, req, m.set)
		op.namespace = req.GetNameSpace()
	case "Delete":
		req := new(wire.MemcacheDeleteRequest)
		op, failed = understand(service, method, request, req, m.delete)
		op.namespace = req.GetNameSpace()
	case "Increment":
		req := new(wire.MemcacheIncrementRequest)
		op, failed = understand(service, method, request, req, m.increment)
		op.namespace = req.GetNameSpace()
	case "BatchIncrement":
		req := new(wire.MemcacheBatchIncrementRequest)
		op, failed = understand(service, method, request, req, m.batchIncrement)
		op.namespace = req.GetNameSpace()
	case "FlushAll":
		op, failed = understand(service, method, request, new(wire.MemcacheFlushRequest), m.flushAll)
	case "Stats":
		op, failed = understand(service, method, request, new(wire.MemcacheStatsRequest), m.stats)
	default:
		failed = callNotFound(service, method)
	}
	return op, failed
}

func checkItemKey(key []byte) *Error {
	if len(key) > maxMemcacheKey {
		return &Error{Code: memcacheInvalidValue, Detail: "a key of " + strconv.Itoa(len(key)) +
			" bytes is longer than " + strconv.Itoa(maxMemcacheKey) + " bytes"}
	}
	return nil
}

func (m *memcache) get(req *wire.MemcacheGetRequest) (*wire.MemcacheGetResponse, *Error) {
	keys := req.GetKey()
	for _, key := range keys {
		if failed := checkItemKey(key); failed != nil {
			return nil, failed
		}
	}
	now := time.Now()
	res := &wire.MemcacheGetResponse{Item: make([]*wire.MemcacheGetResponse_Item, 0, len(keys))}
	var seen map[string]bool // a key named twice is answered once
	if len(keys) > 1 {
		seen = make(map[string]bool, len(keys))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, key := range keys {
		if seen != nil {
			if seen[string(key)] {
				continue
			}
			seen[string(key)] = true
		}
		it := m.lookup(itemKey{req.GetNameSpace(), string(key)}, now)
		if it == nil || it.locked && !req.GetForPeek() {
			m.misses++
			continue
		}
		out := &wire.MemcacheGetResponse_Item{Key: key, Value: it.value, Flags: &it.flags}
		if it.locked {
			out.Value = []byte{}
		}
		m.hits++
		m.byteHits += uint64(len(key) + len(out.Value))
		if req.GetForCas() {
			out.CasId = proto.Uint64(it.cas)
		}
		if req.GetForPeek() {
			out.IsDeleteLocked = proto.Bool(it.locked)
			out.Timestamps = &wire.ItemTimestamps{LastAccessTimeSec: proto.Int64(it.lastAccess.Unix())}
			if !it.expires.IsZero() {
				out.Timestamps.ExpirationTimeSec = proto.Int64(it.expires.Unix())
			}
			if it.locked {
				out.Timestamps.DeleteLockTimeSec = proto.Int64(it.expires.Unix())
			}
		} else {
			m.use(it, now)
		}
		res.Item = append(res.Item, out)
	}
	return res, nil
}

func (m *memcache) set(req *wire.MemcacheSetRequest) (*wire.MemcacheSetResponse, *Error) {
	for _, in := range req.GetItem() {
		if failed := checkItemKey(in.GetKey()); failed != nil {
			return nil, failed
		}
		if n := len(in.GetValue()); n > maxMemcacheValue {
			return nil, &Error{Code: memcacheInvalidValue, Detail: "a value of " + strconv.Itoa(n) +
				" bytes is larger than " + strconv.Itoa(maxMemcacheValue) + " bytes"}
		}
	}
	now := time.Now()
	res := &wire.MemcacheSetResponse{SetStatus: make([]wire.MemcacheSetResponse_SetStatusCode, 0, len(req.GetItem()))}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, in := range req.GetItem() {
		key := itemKey{req.GetNameSpace(), string(in.GetKey())}
		old := m.lookup(key, now)
		status := setStatus(in, old)
		if status == wire.MemcacheSetResponse_STORED {
			if old != nil {
				m.remove(old)
			}
			m.insert(&item{key: key, value: in.GetValue(), flags: in.GetFlags(), expires: expiry(in.GetExpirationTime(), now)}, now)
		} else if old != nil {
			m.use(old, now)
		}
		res.SetStatus = append(res.SetStatus, status)
	}
	return res, nil
}

// setStatus decides whether in may take the place of old, which is nil when
// there is no such item.
func setStatus(in *wire.MemcacheSetRequest_Item, old *item) wire.MemcacheSetResponse_SetStatusCode {
	stored := false
	switch in.GetSetPolicy() {
	case wire.MemcacheSetRequest_SET:
		stored = true
	case wire.MemcacheSetRequest_ADD:
		stored = old == nil
	case wire.MemcacheSetRequest_REPLACE:
		stored = old != nil && !old.locked
	case wire.MemcacheSetRequest_CAS:
		stored = in.CasId != nil && old != nil && !old.locked
		if stored && old.cas != in.GetCasId() {
			return wire.MemcacheSetResponse_EXISTS
		}
	}
	if stored {
		return wire.MemcacheSetResponse_STORED
	}
	return wire.MemcacheSetResponse_NOT_STORED
}

func (m *memcache) delete(req *wire.MemcacheDeleteRequest) (*wire.MemcacheDeleteResponse, *Error) {
	for _, in := range req.GetItem() {
		if failed := checkItemKey(in.GetKey()); failed != nil {
			return nil, failed
		}
	}
	now := time.Now()
	res := &wire.MemcacheDeleteResponse{DeleteStatus: make([]wire.MemcacheDeleteResponse_DeleteStatusCode, 0, len(req.GetItem()))}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, in := range req.GetItem() {
		status := wire.MemcacheDeleteResponse_DELETED
		it := m.lookup(itemKey{req.GetNameSpace(), string(in.GetKey())}, now)
		switch {
		case it == nil:
			status = wire.MemcacheDeleteResponse_NOT_FOUND
		case in.GetDeleteTime() == 0:
			m.remove(it)
		default:
			it.locked = true
			it.expires = expiry(in.GetDeleteTime(), now)
		}
		res.DeleteStatus = append(res.DeleteStatus, status)
	}
	return res, nil
}

func (m *memcache) increment(req *wire.MemcacheIncrementRequest) (*wire.MemcacheIncrementResponse, *Error) {
	if failed := checkItemKey(req.GetKey()); failed != nil {
		return nil, failed
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	value, failed := m.add(req.GetNameSpace(), req, time.Now())
	if failed != nil {
		return nil, failed
	}
	return &wire.MemcacheIncrementResponse{NewValue: &value}, nil
}

func (m *memcache) batchIncrement(req *wire.MemcacheBatchIncrementRequest) (*wire.MemcacheBatchIncrementResponse, *Error) {
	for _, in := range req.GetItem() {
		if failed := checkItemKey(in.GetKey()); failed != nil {
			return nil, failed
		}
	}
	now := time.Now()
	res := &wire.MemcacheBatchIncrementResponse{}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, in := range req.GetItem() {
		out := &wire.MemcacheIncrementResponse{IncrementStatus: wire.MemcacheIncrementResponse_NOT_CHANGED.Enum()}
		if value, failed := m.add(req.GetNameSpace(), in, now); failed == nil {
			out.NewValue = &value
			out.IncrementStatus = wire.MemcacheIncrementResponse_OK.Enum()
		}
		res.Item = append(res.Item, out)
	}
	return res, nil
}

// add adds to or subtracts from the decimal number in an item: beyond 2^64 it
// wraps around, below zero it stays at zero. Like Google's development server
// it leaves the item's CAS id alone. The caller holds the lock.
func (m *memcache) add(namespace string, req *wire.MemcacheIncrementRequest, now time.Time) (uint64, *Error) {
	key := itemKey{namespace, string(req.GetKey())}
	it := m.lookup(key, now)
	if it == nil || it.locked {
		if req.InitialValue == nil {
			return 0, &Error{Code: memcacheUnspecifiedError}
		}
		if it != nil {
			m.remove(it)
		}
		it = &item{key: key, value: strconv.AppendUint(nil, req.GetInitialValue(), 10), flags: req.GetInitialFlags()}
		m.insert(it, now)
	}
	number := strings.TrimPrefix(strings.TrimSpace(string(it.value)), "+")
	value, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return 0, &Error{Code: memcacheInvalidValue}
	}
	delta := req.GetDelta()
	switch {
	case req.GetDirection() == wire.MemcacheIncrementRequest_INCREMENT:
		value += delta
	case delta > value:
		value = 0
	default:
		value -= delta
	}
	m.bytes -= it.size()
	it.value = strconv.AppendUint(nil, value, 10)
	m.bytes += it.size()
	m.use(it, now)
	return value, nil
}

func (m *memcache) flushAll(*wire.MemcacheFlushRequest) (*wire.MemcacheFlushResponse, *Error) {
	m.flush()
	return &wire.MemcacheFlushResponse{}, nil
}

func (m *memcache) stats(*wire.MemcacheStatsRequest) (*wire.MemcacheStatsResponse, *Error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	age := uint32(0)
	if oldest := m.ring.prev; oldest != &m.ring {
		age = uint32(max(0, time.Since(oldest.created)/time.Second))
	}
	return &wire.MemcacheStatsResponse{Stats: &wire.MergedNamespaceStats{
		Hits:          proto.Uint64(m.hits),
		Misses:        proto.Uint64(m.misses),
		ByteHits:      proto.Uint64(m.byteHits),
		Items:         proto.Uint64(uint64(len(m.items))),
		Bytes:         proto.Uint64(uint64(m.bytes)),
		OldestItemAge: proto.Uint32(age),
	}}, nil
}

// expiry is the instant that an expiration in seconds means; zero means never.
func expiry(seconds uint32, now time.Time) time.Time {
	switch {
	case seconds == 0:
		return time.Time{}
	case seconds > maxRelativeExpiration:
		return time.Unix(int64(seconds), 0)
	default:
		return now.Add(time.Duration(seconds) * time.Second)
	}
}

// lookup returns the item that has not expired, or nil.
func (m *memcache) lookup(key itemKey, now time.Time) *item {
	it := m.items[key]
	if it != nil && !it.expires.IsZero() && !now.Before(it.expires) {
		m.remove(it)
		return nil
	}
	return it
}

// use makes it the most recently used item. As on Google's development server
// the time of the last access is only kept for items that never expire.
func (m *memcache) use(it *item, now time.Time) {
	if it.expires.IsZero() {
		it.lastAccess = now
	}
	it.prev.next, it.next.prev = it.next, it.prev
	m.link(it)
}

// insert adds an item that is not there, under a new CAS id, and evicts those
// used least recently until all fit.
func (m *memcache) insert(it *item, now time.Time) {
	m.lastCAS++
	it.cas, it.created, it.lastAccess = m.lastCAS, now, now
	m.items[it.key] = it
	m.bytes += it.size()
	m.link(it)
	for m.bytes > m.maxBytes && m.ring.prev != it {
		m.remove(m.ring.prev)
	}
}

func (m *memcache) link(it *item) {
	it.prev, it.next = &m.ring, m.ring.next
	it.prev.next, it.next.prev = it, it
}

func (m *memcache) remove(it *item) {
	delete(m.items, it.key)
	m.bytes -= it.size()
	it.prev.next, it.next.prev = it.next, it.prev
}

// size is what an item counts against the size limit.
func (it *item) size() int64 { return int64(len(it.key.key) + len(it.value)) }
