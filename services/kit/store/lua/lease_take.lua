-- Take a lease if it is free. KEYS: lease, fencing counter. ARGV: TTL in ms, a random suffix. Returns a fencing token
-- or "" (taken). The suffix keeps tokens apart when the counter was lost and begins again.
if redis.call('EXISTS', KEYS[1]) == 1 then return '' end
local token = redis.call('INCR', KEYS[2]) .. '.' .. ARGV[2]
redis.call('SET', KEYS[1], token, 'PX', ARGV[1])
return token
