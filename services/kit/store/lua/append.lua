-- One write for a whole batch: store each outcome and append its trace; the first writer wins (I5).
-- KEYS[1]: trace stream. ARGV: outcome prefix, outcome TTL in s, stream cap,
-- then per item: identity, outcome JSON, trace JSON or "".
-- Returns per item "" when written, else the outcome stored earlier; or {"full"} with nothing written.
local prefix, ttl, cap = ARGV[1], ARGV[2], tonumber(ARGV[3])
local has_trace = false
for i = 4, #ARGV, 3 do
  if ARGV[i + 2] ~= '' then has_trace = true; break end
end
if has_trace and redis.call('XLEN', KEYS[1]) >= cap then return {'full'} end
local replies = {}
for i = 4, #ARGV, 3 do
  local key = prefix .. ARGV[i]
  if redis.call('SET', key, ARGV[i + 1], 'NX', 'EX', ttl) then
    if ARGV[i + 2] ~= '' then redis.call('XADD', KEYS[1], '*', 'trace', ARGV[i + 2]) end
    replies[#replies + 1] = ''
  else
    replies[#replies + 1] = redis.call('GET', key)
  end
end
return replies
