-- Take a lease if it is free. KEYS: lease, fencing counter. ARGV: TTL in ms. Returns a fencing token or "" (taken).
if redis.call('EXISTS', KEYS[1]) == 1 then return '' end
local token = tostring(redis.call('INCR', KEYS[2]))
redis.call('SET', KEYS[1], token, 'PX', ARGV[1])
return token
