package rediscache

import (
	"strconv"

	"github.com/redis/go-redis/v9"
)

// fence begins a script that needs the fence of its server, which is the server's
// replication id. A replica has the id of its master and lags behind, so it is
// refused. The READONLY error makes the client close the connection.
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

// form begins a script that tells items from other values by their first 60 bytes.
const form = `
local function isItem(first)
	return #first == 60 and not string.find(string.sub(first, 1, 40), '[^0-9a-f-]')
end
`

// No script returns nil: the client may wrap redis.Nil to say that it is not connected.

// Prefixes of the scripts' errors.
const (
	noFence = "NOFENCE "
	foreign = "FOREIGN "
)

// infoScript returns what INFO returns.
const infoScript = `return redis.call('INFO', 'replication')`

// checkScript returns the server's version, provided that it has a fence.
var checkScript = redis.NewScript(fence + `
return string.match(redis.call('INFO', 'server'), '\nredis_version:([^\r\n]*)') or ''`)

// look begins a script that examines the key. It sets first to the first 60 bytes
// of the item, or to an empty string if there is no item, and returns an error if
// there is anything else. It stamps the unstamped item with the head ARGV[1]. It
// deletes any other item without the server's fence, so that it cannot become valid
// again when a Cluster moves its slot back: an item with another fence, an item that
// was never stamped, the placeholder of clearScript.
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
	if first ~= '' or redis.call('GET', KEYS[1]) then
		return redis.error_reply('` + foreign + `there is something that is no item')
	end
elseif from ~= fence then
	redis.call('DEL', KEYS[1])
	first = ''
end
`

var (
	// readScript returns the item, or an empty string.
	readScript = redis.NewScript(look + `
return first ~= '' and redis.call('GETRANGE', KEYS[1], 0, ` + strconv.Itoa(maxItem) + `) or ''`)

	// removeScript deletes the item.
	removeScript = redis.NewScript(look + `
return first ~= '' and redis.call('DEL', KEYS[1]) or 0`)

	// settleScript returns a tier.Outcome: 0 if it stamped the item with the head
	// ARGV[1], 1 if there is another item, 2 if there is none.
	settleScript = redis.NewScript(look + `
return stamp and 0 or first ~= '' and 1 or 2`)
)

// The scripts below run in a transaction before a SET NX, and delete what it may
// replace. So the value does not pass through a script. Each call sends their text:
// if it sent their hash (EVALSHA) and the server did not know it, the SET NX would
// still run. No key expires between the script and the SET NX, because time stands
// still in a transaction.
const (
	// dropScript deletes any item.
	dropScript = form + `
local first = redis.pcall('GETRANGE', KEYS[1], 0, 59)
if type(first) == 'string' and isItem(first) then
	return redis.call('DEL', KEYS[1])
end
return 0`

	// clearScript deletes the item with the head ARGV[1] and returns 1. Otherwise
	// it returns 0, and the SET NX must do nothing: if the key is free, the script
	// puts a placeholder there for a second, which has the form of an unstamped
	// item. It does so even if it cannot read the key, hence pcall.
	clearScript = `
if redis.pcall('GETRANGE', KEYS[1], 0, 55) == ARGV[1] then
	return redis.call('DEL', KEYS[1])
end
redis.call('SET', KEYS[1], string.rep('-', 60), 'NX', 'PX', 1000)
return 0`
)
