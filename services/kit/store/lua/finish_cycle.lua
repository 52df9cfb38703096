-- End a cycle under its fencing token, all at once: report, cursor, checkpoint, count of cycles without an
-- activation, request. Where its report is the last one, it has ended already: the caller lost the first reply.
-- KEYS: named in the first statement. ARGV[1]: JSON {token, group, cursor (last trace id, "" leaves it), report (JSON),
-- ended ("fruitful" | "fruitless" | ""), request (JSON of the request it served, or "")}.
-- Returns 1, or 0 when the lease is another's.
local lease, traces, reports, checkpoint, without_activation, request = unpack(KEYS)
local args = cjson.decode(ARGV[1])
if redis.call('GET', lease) ~= args.token then return 0 end
local last = redis.call('XREVRANGE', reports, '+', '-', 'COUNT', 1)[1]
if last and last[2][2] == args.report then return 1 end
if args.cursor ~= '' and redis.pcall('XGROUP', 'SETID', traces, args.group, args.cursor).err then
  redis.call('XGROUP', 'CREATE', traces, args.group, args.cursor, 'MKSTREAM') -- Redis has lost the group
end
redis.call('XADD', reports, '*', 'report', args.report)
redis.call('DEL', checkpoint)
if args.ended == 'fruitless' then redis.call('INCR', without_activation) end
if args.ended == 'fruitful' then redis.call('DEL', without_activation) end
if args.request ~= '' and redis.call('GET', request) == args.request then redis.call('DEL', request) end
return 1
