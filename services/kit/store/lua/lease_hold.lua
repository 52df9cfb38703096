-- Renew (TTL > 0) or give back (TTL 0) a lease. KEYS: lease. ARGV: token, TTL in ms. Returns 1 if the token holds it.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if tonumber(ARGV[2]) > 0 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) else redis.call('DEL', KEYS[1]) end
return 1
