-- End a cycle under its fencing token, all at once: report, cursor, checkpoint, count of fruitless ones, request.
-- Without a checkpoint it has ended already: the answer of the first time was lost.
-- KEYS: lease, traces, reports, checkpoint, fruitless, request. ARGV: token, group, last trace id or "" (abandoned:
-- the cursor stays), report JSON, "fruitful" | "fruitless" | "", JSON of the request it served or "".
-- Returns 1, or 0 when fenced off.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if redis.call('EXISTS', KEYS[4]) == 0 then return 1 end
if ARGV[3] ~= '' then redis.call('XGROUP', 'SETID', KEYS[2], ARGV[2], ARGV[3]) end
redis.call('XADD', KEYS[3], '*', 'report', ARGV[4])
redis.call('DEL', KEYS[4])
if ARGV[5] == 'fruitless' then redis.call('INCR', KEYS[5]) elseif ARGV[5] == 'fruitful' then redis.call('DEL', KEYS[5]) end
if ARGV[6] ~= '' and redis.call('GET', KEYS[6]) == ARGV[6] then redis.call('DEL', KEYS[6]) end
return 1
