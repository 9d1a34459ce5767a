package rediscache

import "github.com/redis/go-redis/v9"

// An item is one string in Redis: the fence of the server that took it (40
// bytes), a random version (16), the flags (4, big-endian) and the value. Fence
// and version are the head, which names one item for ever. The scripts get heads
// and not values: Redis 7 takes 5 us to hand 4 KB to a script, since its Lua
// hashes every byte of a string.
const (
	fenceLen = 40
	headLen  = fenceLen + 16
	itemLen  = headLen + 4

	// unstamped is the fence of an item that no server has taken yet.
	unstamped = "----------------------------------------"
)

// fence begins a script that needs the fence of the server it runs on: its
// replication id. A replica has that of its master, but lags behind it. Its error
// makes the client close the connection.
const fence = `
local info = redis.call('INFO', 'replication')
if not string.find(info, '\nrole:master', 1, true) then
	return redis.error_reply('READONLY a replica may lag behind, and is not asked')
end
local fence = string.match(info, '\nmaster_replid:(%x+)')
if not fence or #fence ~= 40 then
	return redis.error_reply('` + noFence + `the server does not say its replication id')
end
`

// form begins a script that tells what has the form of an item, by its first 60
// bytes, from what somebody else has put there.
const form = `
local function isItem(first)
	return #first == 60 and not string.find(string.sub(first, 1, 40), '[^0-9a-f-]')
end
`

// The errors of the scripts begin so.
const (
	noFence = "NOFENCE "
	foreign = "FOREIGN "
)

// infoScript answers as INFO does.
const infoScript = `return redis.call('INFO', 'replication')`

// checkScript answers the version of a server that says its fence.
var checkScript = redis.NewScript(fence + `
return string.match(redis.call('INFO', 'server'), '\nredis_version:([^\r\n]*)') or ''`)

// look begins a script that looks at what is there: first is how the item begins,
// or empty if there is none. If it is the item with the head ARGV[1], and not
// stamped yet, it is stamped. Any other item that has not the server's fence is
// none, and is deleted, so that it cannot become one again when a Cluster moves
// its slot back: one of another fence, one that was never stamped, and what
// clearScript has put there.
const look = fence + form + `
local first = redis.pcall('GETRANGE', KEYS[1], 0, 59)
if type(first) ~= 'string' then
	return first
end
local from = string.sub(first, 1, 40)
local stamp = from == '` + unstamped + `' and string.sub(first, 1, 56) == ARGV[1]
if stamp then
	redis.call('SETRANGE', KEYS[1], 0, fence)
elseif not isItem(first) then
	if redis.call('GET', KEYS[1]) then
		return redis.error_reply('` + foreign + `there is something that is no item')
	end
elseif from ~= fence then
	redis.call('DEL', KEYS[1])
	first = ''
end
`

var (
	// readScript answers the item; nil if there is none.
	readScript = redis.NewScript(look + `
return first ~= '' and redis.call('GET', KEYS[1])`)

	// removeScript deletes the item.
	removeScript = redis.NewScript(look + `
return first ~= '' and redis.call('DEL', KEYS[1])`)

	// settleScript answers a tier.Outcome: 0 if it has stamped the item with the
	// head ARGV[1], 1 if there is another one, 2 if there is none.
	settleScript = redis.NewScript(look + `
return stamp and 0 or first ~= '' and 1 or 2`)
)

// The scripts below begin a transaction that goes on with SET NX: they delete
// what that may replace. So the value does not go through a script. They are sent
// as a whole each time, since the SET would be made, too, if the server had only
// been told their names and did not know them. (No key expires between the two:
// time stands still in a transaction.)
const (
	// dropScript deletes the item, whichever it is.
	dropScript = form + `
local first = redis.pcall('GETRANGE', KEYS[1], 0, 59)
if type(first) == 'string' and isItem(first) then
	return redis.call('DEL', KEYS[1])
end
return 0`

	// clearScript deletes the item with the head ARGV[1], and answers 1. If
	// something else is there, it leaves that, and answers 0. If there is nothing,
	// it puts something there for a second that has the form of an item and is
	// none. The SET NX must do nothing then, whatever fails here: hence pcall.
	clearScript = `
if redis.pcall('GETRANGE', KEYS[1], 0, 55) == ARGV[1] then
	return redis.call('DEL', KEYS[1])
end
redis.call('SET', KEYS[1], string.rep('-', 60), 'NX', 'PX', 1000)
return 0`
)
