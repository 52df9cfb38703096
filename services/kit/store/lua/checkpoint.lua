-- Save the result of a cycle's stage, with the events and values that belong to it, under the cycle's fencing token.
-- Saving the same checkpoint again changes nothing: the caller may have lost the first reply.
-- KEYS: lease, checkpoint, lineage events, gate passes, then keys to be set.
-- ARGV[1]: JSON {token, checkpoint (JSON), ttl_s, events = {{event (JSON), passed, against}}, values}; `passed` is
-- the digest that passed the gate (or ""), `against` the digest it was compared with, `values` one for each key to be
-- set, kept for `ttl_s`.
-- Returns 1, or 0 when the lease is another's.
local args = cjson.decode(ARGV[1])
if redis.call('GET', KEYS[1]) ~= args.token then return 0 end
if redis.call('GET', KEYS[2]) == args.checkpoint then return 1 end
redis.call('SET', KEYS[2], args.checkpoint)
for _, entry in ipairs(args.events) do
  redis.call('XADD', KEYS[3], '*', 'event', entry.event)
  if entry.passed ~= '' then redis.call('HSET', KEYS[4], entry.passed, entry.against) end
end
for i, value in ipairs(args.values) do
  redis.call('SET', KEYS[4 + i], value, 'EX', args.ttl_s)
end
return 1
