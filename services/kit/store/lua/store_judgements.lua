-- Store judgements; the first writer wins. KEYS: judgements. ARGV: TTL in s, then a value for each key.
-- Returns for each key "" when written, else the value stored earlier.
local replies = {}
for i, key in ipairs(KEYS) do
  if redis.call('SET', key, ARGV[i + 1], 'NX', 'EX', ARGV[1]) then
    replies[i] = ''
  else
    replies[i] = redis.call('GET', key)
  end
end
return replies
