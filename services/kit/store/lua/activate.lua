-- Make a stored rubric the active one: compare-and-set, fenced, with its authority (I6).
-- What was rolled back stays out of every cycle's reach until someone activates it on their own authority.
-- A rollback with a cool-down is an automatic one: while it lasts there is no second one.
-- KEYS: active, versions, passed, lineage, lease, rubric, rolled back, cooling, lines.
-- ARGV: digest, scope or "", expected digest ("" none active), authority ("gate" | "override" | "bootstrap"
-- | "rollback"), fencing token or "", event JSON, channel, announcement prefix JSON (without its closing brace),
-- cool-down in ms or 0, label of the line.
-- Returns {"ok", version} or {reason, detail}.
local digest, scope, expected, authority, token = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if token ~= '' and redis.call('GET', KEYS[5]) ~= token then return {'fenced', ''} end
local active = redis.call('GET', KEYS[1])
local current = active and string.sub(active, 1, 64) or ''
if current ~= expected then return {'conflict', current} end
if redis.call('EXISTS', KEYS[6]) == 0 then return {'unknown', digest} end
local version = redis.call('HGET', KEYS[2], digest)
if authority == 'gate' and redis.call('HGET', KEYS[3], digest) ~= current then return {'ungated', digest} end
local undone = redis.call('HGET', KEYS[7], digest)
if (authority == 'gate' or token ~= '') and undone then return {'rolled_back', undone} end
local cools = tonumber(ARGV[9])
if cools > 0 and redis.call('EXISTS', KEYS[8]) == 1 then return {'cooling', redis.call('GET', KEYS[8])} end
if authority == 'bootstrap' and current ~= '' then return {'conflict', current} end
if authority == 'rollback' and not version then return {'never_active', digest} end
if authority == 'rollback' then redis.call('HSET', KEYS[7], current, cjson.decode(ARGV[6]).reason) end
redis.call('HDEL', KEYS[7], digest)
if cools > 0 then redis.call('SET', KEYS[8], current, 'PX', cools) end
redis.call('SADD', KEYS[9], ARGV[10])
if not version then
  version = redis.call('HLEN', KEYS[2]) + 1
  redis.call('HSET', KEYS[2], digest, version)
end
redis.call('SET', KEYS[1], digest .. ' ' .. version .. ' ' .. scope)
redis.call('XADD', KEYS[4], '*', 'event', ARGV[6], 'version', version, 'previous', current)
redis.call('PUBLISH', ARGV[7], ARGV[8] .. ',"version":' .. version .. '}')
return {'ok', tostring(version)}
