package rediscache

import "github.com/redis/go-redis/v9"

// An item is one string in Redis: the fence of the server that took it (40
// bytes), a random version (16), the flags (4, big-endian) and the value. Fence
// and version are the head: it names one item for ever. Values do not go through
// scripts where it matters: Redis 7 takes 5 us to hand 4 KB to one, since its Lua
// hashes every byte of a string.
const (
	fenceLen = 40
	headLen  = fenceLen + 16
	itemLen  = headLen + 4

	// unstamped is the fence of an item that no server has taken yet.
	unstamped = "----------------------------------------"
)

// fence begins a script that needs the fence of the server it runs on: its
// replication id. A replica has that of its master, but lags behind it.
const fence = `
local info = redis.call('INFO', 'replication')
if not string.find(info, '\nrole:master', 1, true) then
	return redis.error_reply('READONLY a replica may lag behind, and is not asked')
end
local _, at = string.find(info, '\nmaster_replid:', 1, true)
local fence = string.sub(info, at + 1, at + 40)
`

// infoScript answers as INFO does.
const infoScript = `return redis.call('INFO', 'replication')`

var (
	// fenceScript answers the fence, for New.
	fenceScript = redis.NewScript(fence + `return fence`)

	// readScript answers the item; nil if there is none. An item of another fence
	// is none, and is deleted, so that it cannot become one again when a Cluster
	// moves its slot back. One that is not stamped is none yet.
	readScript = redis.NewScript(fence + `
local item = redis.call('GETRANGE', KEYS[1], 0, -1)
local from = string.sub(item, 1, 40)
if from == fence then
	return item
end
if from ~= '` + unstamped + `' then
	redis.call('DEL', KEYS[1])
end
return false`)

	// stampScript stamps the unstamped item with the head ARGV[1], or whatever is
	// there without one. It answers 1 if it did; 0 if there is another item; -1 if
	// there is none, or none any more: it deletes what has another fence or was
	// never stamped.
	stampScript = redis.NewScript(fence + `
local head = ARGV[1] and redis.call('GETRANGE', KEYS[1], 0, 55)
if head == ARGV[1] then
	redis.call('SETRANGE', KEYS[1], 0, fence)
	return 1
end
if string.sub(head, 1, 40) == fence then
	return 0
end
redis.call('DEL', KEYS[1])
return -1`)

	// settleScript says what became of a swap that found another item than the
	// old one, or none, if the item with the head ARGV[1] was to be stored. It
	// answers a tier.Outcome, and deletes what clearScript has put there. The item
	// itself may be there: an earlier attempt has stored it, or the old one was of
	// another fence, and neither is an item.
	settleScript = redis.NewScript(fence + `
local head = redis.call('GETRANGE', KEYS[1], 0, 55)
local from = string.sub(head, 1, 40)
if from == fence then
	return head == ARGV[1] and 0 or 1
end
if from ~= '` + unstamped + `' then
	redis.call('DEL', KEYS[1])
end
return 2`)
)

// clearScript deletes the item with the head ARGV[1], and answers 1. If another
// is there, it leaves that, and answers 0; if there is nothing, it puts something
// there that is no item, for a second. The SET NX that follows in the transaction
// must do nothing then, whatever fails here: hence pcall. (No key expires between
// the two: time stands still in a transaction.)
const clearScript = `
if redis.pcall('GETRANGE', KEYS[1], 0, 55) == ARGV[1] then
	return redis.call('DEL', KEYS[1])
end
redis.call('SET', KEYS[1], '', 'NX', 'PX', 1000)
return 0`
