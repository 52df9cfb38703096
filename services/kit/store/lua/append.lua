-- One write for a whole batch: store each outcome and append its trace; the first writer wins (I5).
-- An entry holds its trace, and in `end` the bytes of all traces up to its own. So the bytes in the stream are what lies
-- between its first entry and its last, whoever trims it.
-- KEYS[1]: trace stream. ARGV: outcome prefix, outcome TTL in s, most entries and most bytes in the stream,
-- then per item: identity, outcome JSON, trace JSON or "".
-- Returns per item "" when written, else the outcome stored earlier; or {"full", entries, bytes} with nothing written.
local prefix, ttl, max_entries, max_bytes = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local function edge(entries)
  if not entries[1] then return 0, 0 end
  local fields = entries[1][2]
  return tonumber(fields[4] or 0), #fields[2]
end
local has_trace, last_end = false, 0
for i = 5, #ARGV, 3 do
  if ARGV[i + 2] ~= '' then has_trace = true; break end
end
if has_trace then
  local first_end, first_size = edge(redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1))
  last_end = edge(redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1))
  local entries, bytes = redis.call('XLEN', KEYS[1]), last_end - first_end + first_size
  if entries >= max_entries or bytes >= max_bytes then
    return {'full', tostring(entries), string.format('%.0f', bytes)}
  end
end
local replies = {}
for i = 5, #ARGV, 3 do
  local key, trace = prefix .. ARGV[i], ARGV[i + 2]
  if redis.call('SET', key, ARGV[i + 1], 'NX', 'EX', ttl) then
    if trace ~= '' then
      last_end = last_end + #trace
      redis.call('XADD', KEYS[1], '*', 'trace', trace, 'end', string.format('%.0f', last_end))
    end
    replies[#replies + 1] = ''
  else
    replies[#replies + 1] = redis.call('GET', key)
  end
end
return replies
