-- Ready on at least one node. Agents need a moment for their first look; a location that none of them can use is broken.
local hs = {status = "Progressing", message = "No agent has looked at this location yet"}

if obj.status == nil or obj.status.conditions == nil then
  return hs
end
if obj.status.observedGeneration ~= obj.metadata.generation then
  hs.message = "The latest change of the spec was not seen yet"
  return hs
end
for _, condition in ipairs(obj.status.conditions) do
  if condition.type == "Ready" then
    hs.message = condition.reason .. ": " .. condition.message
    if condition.status == "True" then
      hs.status = "Healthy"
    elseif condition.reason ~= "NoNode" then
      hs.status = "Degraded"
    end
  end
end
return hs
