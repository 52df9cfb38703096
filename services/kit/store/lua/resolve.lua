-- One read for a whole batch: read or set each pin, and fetch the outcomes stored under it.
-- A pin that is not set takes the requested rubric, else the active one of the narrowest lineage that has one.
-- KEYS: pins and active pointers. ARGV[1]: JSON {prefix, pins = {{pin, active, requested, ttl, items}}};
-- `pin` and `active` are positions in KEYS, `requested` is "digest version scope" or "".
-- Returns one reply a pin: {"ok" | "pinned" | "none", "digest version scope", outcome or "", ...}.
local plan = cjson.decode(ARGV[1])
local replies = {}
for n, entry in ipairs(plan.pins) do
  local key = KEYS[entry.pin]
  local value = redis.call('GET', key)
  local status = 'ok'
  if not value then
    value = entry.requested
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
  local reply = {status, value}
  if status == 'ok' then
    for _, item in ipairs(entry.items) do
      reply[#reply + 1] = redis.call('GET', plan.prefix .. item .. '.' .. string.sub(value, 1, 64)) or ''
    end
  end
  replies[n] = reply
end
return replies
