-- Move a lineage's cursor forwards; not while a cycle is under way.
-- KEYS: traces, checkpoint. ARGV: group, entry id (milliseconds-number). Returns 1 where the cursor moved, else 0.
if redis.call('EXISTS', KEYS[2]) == 1 or redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local function parts(id)
  local ms, number = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(number)
end
local ms, number = parts(ARGV[2])
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local fields = {}
  for i = 1, #group, 2 do fields[group[i]] = group[i + 1] end
  if fields['name'] == ARGV[1] then
    local at_ms, at_number = parts(fields['last-delivered-id'])
    if ms < at_ms or (ms == at_ms and number <= at_number) then return 0 end
    redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], ARGV[2])
    return 1
  end
end
return 0
