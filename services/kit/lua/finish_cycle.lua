-- End a cycle under its fencing token: record the report, move the line's cursor behind the window it consumed.
-- KEYS: lease, traces, reports. ARGV: token, group, last trace id, report JSON. Returns 1, or 0 when fenced off.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('XGROUP', 'SETID', KEYS[2], ARGV[2], ARGV[3])
redis.call('XADD', KEYS[3], '*', 'report', ARGV[4])
return 1
