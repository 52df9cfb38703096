-- Make a stored rubric the active one: compare-and-set, fenced, with its authority (I6).
-- A rubric that was rolled back can be activated again only outside of cycles, by an override.
-- A rollback with a cooldown is an automatic one; while the cooldown lasts, a second one is refused.
-- KEYS: named in the first statement. ARGV[1]: JSON {digest, scope or "", expected (digest, "" for none active),
-- authority ("gate" | "override" | "bootstrap" | "rollback"), token (fencing token or ""), event (JSON),
-- channel, announcement (JSON without its closing brace), cooldown_ms (or 0), label, version}.
-- A rubric that was never active gets the next version, at least `version`: numbers of a lost history are not reused.
-- Returns {"ok", version} or {reason, detail}.
local active, versions, gate_passes, events, lease, rubric, rolled_back, cooldown, lineages = unpack(KEYS)
local args = cjson.decode(ARGV[1])
local digest, authority = args.digest, args.authority
if args.token ~= '' and redis.call('GET', lease) ~= args.token then return {'fenced', ''} end
local current = string.sub(redis.call('GET', active) or '', 1, 64)
if current ~= args.expected then return {'conflict', current} end
if redis.call('EXISTS', rubric) == 0 then return {'unknown', digest} end
local version = redis.call('HGET', versions, digest)
if authority == 'gate' and redis.call('HGET', gate_passes, digest) ~= current then return {'ungated', digest} end
local reason = redis.call('HGET', rolled_back, digest)
if (authority == 'gate' or args.token ~= '') and reason then return {'rolled_back', reason} end
if args.cooldown_ms > 0 and redis.call('EXISTS', cooldown) == 1 then return {'cooling', redis.call('GET', cooldown)} end
if authority == 'bootstrap' and current ~= '' then return {'conflict', current} end
if authority == 'rollback' and not version then return {'never_active', digest} end
if authority == 'rollback' then redis.call('HSET', rolled_back, current, cjson.decode(args.event).reason) end
redis.call('HDEL', rolled_back, digest)
if args.cooldown_ms > 0 then redis.call('SET', cooldown, current, 'PX', args.cooldown_ms) end
redis.call('SADD', lineages, args.label)
if not version then
  version = 0
  for _, known in ipairs(redis.call('HVALS', versions)) do version = math.max(version, tonumber(known)) end
  version = math.max(version + 1, args.version)
  redis.call('HSET', versions, digest, version)
end
redis.call('SET', active, digest .. ' ' .. version .. ' ' .. args.scope)
redis.call('XADD', events, '*', 'event', args.event, 'version', version, 'previous', current)
redis.call('PUBLISH', args.channel, args.announcement .. ',"version":' .. version .. '}')
return {'ok', tostring(version)}
