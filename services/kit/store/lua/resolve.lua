-- One read for a whole batch: fix or read each pin, and fetch the outcomes already known under it.
-- A pin's first use takes the active rubric of the narrowest line that has one, or the rubric asked for.
-- KEYS: pins and active pointers. ARGV[1]: JSON {prefix, pins = {{pin, active, wanted, ttl, items}}};
-- `pin` and `active` are positions in KEYS, `wanted` is "digest version scope" or "".
-- Returns one row a pin: {"ok" | "pinned" | "none", "digest version scope", outcome or "", ...}.
local plan = cjson.decode(ARGV[1])
local rows = {}
for n, entry in ipairs(plan.pins) do
  local key = KEYS[entry.pin]
  local value = redis.call('GET', key)
  local status = 'ok'
  if not value then
    value = entry.wanted
    if value == '' then
      for _, position in ipairs(entry.active) do
        local active = redis.call('GET', KEYS[position])
        if active then value = active; break end
      end
    end
    if value == '' then status = 'none' else redis.call('SET', key, value, 'EX', entry.ttl) end
  elseif entry.wanted ~= '' and string.sub(entry.wanted, 1, 64) ~= string.sub(value, 1, 64) then
    status = 'pinned'
  end
  local row = {status, value}
  if status == 'ok' then
    for _, item in ipairs(entry.items) do
      row[#row + 1] = redis.call('GET', plan.prefix .. item .. '.' .. string.sub(value, 1, 64)) or ''
    end
  end
  rows[n] = row
end
return rows
