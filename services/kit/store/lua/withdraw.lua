-- Delete a request if it is still the given one. KEYS: request. ARGV: its JSON. Returns 1 if it was.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
