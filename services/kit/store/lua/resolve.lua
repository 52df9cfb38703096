-- One read for a whole batch: read or set each pin, and fetch the outcomes stored under it.
-- A pin that is not set takes the requested rubric, else the one that the caller knows it held (Redis has lost it),
-- else the active one of the narrowest lineage that has one.
-- KEYS: pins and active pointers. ARGV[1]: JSON {prefix, pins = {{pin, active, requested, known, ttl, items}}};
-- `pin` and `active` are positions in KEYS, `requested` and `known` are "digest version scope" or "".
-- Returns one reply a pin: {"ok" | "pinned" | "none", "digest version scope", seconds, outcome or "", ...}; seconds are
-- what remains of the pin's lifetime, 0 where it holds what the caller knows.
local plan = cjson.decode(ARGV[1])
local replies = {}
for n, entry in ipairs(plan.pins) do
  local key = KEYS[entry.pin]
  local value = redis.call('GET', key)
  local status, ttl = 'ok', 0
  if not value then
    value, ttl = entry.requested, entry.ttl
    if value == '' then value = entry.known end
    if value == '' then
      for _, position in ipairs(entry.active) do
        local active = redis.call('GET', KEYS[position])
        if active then value = active; break end
      end
    end
    if value == '' then status = 'none' else redis.call('SET', key, value, 'EX', entry.ttl) end
  elseif entry.requested ~= '' and string.sub(entry.requested, 1, 64) ~= string.sub(value, 1, 64) then
    status = 'pinned'
  end
  if ttl == 0 and value ~= entry.known then ttl = redis.call('TTL', key) end
  local reply = {status, value, tostring(ttl)}
  if status == 'ok' then
    for _, item in ipairs(entry.items) do
      reply[#reply + 1] = redis.call('GET', plan.prefix .. item .. '.' .. string.sub(value, 1, 64)) or ''
    end
  end
  replies[n] = reply
end
return replies
