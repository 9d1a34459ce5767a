package rediscache

import "github.com/redis/go-redis/v9"

// An item is one string in Redis: the fence of the server that took it (40
// bytes), a random version (16), the flags (4, big-endian) and the value. Fence
// and version are the head. Scripts see the whole value only where they have
// to: Redis 7 and Valkey take 6 us to hand 4 KB to one.
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

var (
	// fenceScript answers the fence, for New.
	fenceScript = redis.NewScript(fence + `return fence`)

	// readScript answers the first bytes of an item, up to index ARGV[1]; nil if
	// there is none. An item of another fence is none, and is deleted, so that
	// it cannot become one again when a Cluster moves its slot back. One that is
	// not stamped is none yet.
	readScript = redis.NewScript(fence + `
local item = redis.call('GETRANGE', KEYS[1], 0, ARGV[1])
local from = string.sub(item, 1, 40)
if from == fence then
	return item
end
if item ~= '' and from ~= '` + unstamped + `' then
	redis.call('DEL', KEYS[1])
end
return false`)

	// stampScript stamps the item if it is the unstamped one with the head ARGV[1].
	// It answers 1 if so; 0 if there is another item; -1 if there is none, or
	// none any more: it deletes what has another fence or was never stamped.
	stampScript = redis.NewScript(fence + `
local head = redis.call('GETRANGE', KEYS[1], 0, 55)
if head == ARGV[1] then
	redis.call('SETRANGE', KEYS[1], 0, fence)
	return 1
end
if string.sub(head, 1, 40) == fence then
	return 0
end
redis.call('DEL', KEYS[1])
return -1`)

	// swapScript puts the item ARGV[2], for ARGV[3] ms, in place of the one with
	// the head ARGV[1]. It answers a tier.Outcome. The new item has the fence of
	// the old one: should that not be the server's any more, neither is an item,
	// as if both had been evicted. So the server is asked only after a mismatch.
	// An item that is there already was put there by an earlier attempt.
	swapScript = redis.NewScript(`
local head = redis.call('GETRANGE', KEYS[1], 0, 55)
if head == ARGV[1] then
	if ARGV[3] == '0' then
		redis.call('DEL', KEYS[1])
	else
		redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
	end
	return 0
end
if head == string.sub(ARGV[2], 1, 56) then
	return 0
end` + fence + `
local from = string.sub(head, 1, 40)
if from == fence then
	return 1
end
if head ~= '' and from ~= '` + unstamped + `' then
	redis.call('DEL', KEYS[1])
end
return 2`)
)
