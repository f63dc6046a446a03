-- As kstatus judges it: Stalled is there only when it is True. Ready follows the newest backup of every VM.
local hs = {status = "Progressing", message = "Nobody has looked at this VMBackupSchedule yet"}

if obj.status == nil or obj.status.conditions == nil then
  return hs
end
if obj.status.observedGeneration ~= obj.metadata.generation then
  hs.message = "The latest change of the spec was not seen yet"
  return hs
end
for _, condition in ipairs(obj.status.conditions) do
  if condition.type == "Stalled" and condition.status == "True" then
    hs.status = "Degraded"
    hs.message = condition.reason .. ": " .. condition.message
    return hs
  end
  if condition.type == "Ready" then
    if condition.status == "True" then
      hs.status = "Healthy"
    end
    hs.message = condition.reason .. ": " .. condition.message
  end
end
return hs
