-- Store how far a task's traces have been archived, and trim the stream, under the archive's fencing token.
-- KEYS: archive lease, archive state, traces. ARGV: token, state JSON, id of the first entry to be kept or "".
-- Returns 1, or 0 when the lease is another's.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2])
if ARGV[3] ~= '' then redis.call('XTRIM', KEYS[3], 'MINID', ARGV[3]) end
return 1
