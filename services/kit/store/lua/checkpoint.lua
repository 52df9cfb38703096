-- Save what a cycle's stage has done, with all that it leaves behind, under the cycle's fencing token.
-- Saying the same again changes nothing: the answer of the first time may have been lost.
-- KEYS: lease, checkpoint, lineage, passed, then keys to be set. ARGV: token, checkpoint JSON, TTL in s of the
-- keys to be set, number of events, three for each (event JSON, digest that passed the gate or "", against which
-- digest), then a value for each key to be set. Returns 1, or 0 when fenced off.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if redis.call('GET', KEYS[2]) == ARGV[2] then return 1 end
redis.call('SET', KEYS[2], ARGV[2])
local at = 5
for _ = 1, tonumber(ARGV[4]) do
  redis.call('XADD', KEYS[3], '*', 'event', ARGV[at])
  if ARGV[at + 1] ~= '' then redis.call('HSET', KEYS[4], ARGV[at + 1], ARGV[at + 2]) end
  at = at + 3
end
for i = 5, #KEYS do
  redis.call('SET', KEYS[i], ARGV[at], 'EX', ARGV[3])
  at = at + 1
end
return 1
