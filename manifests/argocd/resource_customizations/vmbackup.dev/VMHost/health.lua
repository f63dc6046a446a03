-- Written by the node's agent. Whether the agent lives is told by its Lease, not here.
local hs = {status = "Progressing", message = "The agent has not looked at its node yet"}

if obj.status == nil or obj.status.conditions == nil then
  return hs
end
for _, condition in ipairs(obj.status.conditions) do
  if condition.type == "Ready" then
    hs.message = condition.reason .. ": " .. condition.message
    if condition.status == "True" then
      hs.status = "Healthy"
    else
      hs.status = "Degraded"
    end
  end
end
return hs
