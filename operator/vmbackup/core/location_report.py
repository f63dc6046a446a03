"""The status of a VMBackupLocation: what the agents of the nodes see of it, gathered from their VMHosts."""

from collections.abc import Collection, Iterable, Mapping

from vmbackup.api.conditions import ConditionType, Reason
from vmbackup.api.host import VMHost
from vmbackup.api.location import NodeSpace, VMBackupLocation, VMBackupLocationStatus
from vmbackup.core.kstatus import LONGEST_REASON, Stamp, Truth, cut, state

MOST_NODES = 5000  # as in api.location.VMBackupLocationStatus
MOST_NAMED = 10


def location_status(
    location: VMBackupLocation, hosts: Mapping[str, VMHost], live_nodes: Collection[str], now: float
) -> VMBackupLocationStatus:
    """Return the status: Ready when a live node can write there; the message names the nodes that cannot."""
    nodes = tuple(_spaces(location.metadata.name, hosts, live_nodes))[:MOST_NODES]
    truth, reason, message = _verdict(nodes)
    stamp = Stamp(now, location.metadata.generation)
    return VMBackupLocationStatus(
        observed_generation=location.metadata.generation,
        nodes=nodes,
        conditions=state(location.status.conditions, ConditionType.READY, truth, reason, message, stamp),
    )


def same_but_for_bytes(one: VMBackupLocationStatus, other: VMBackupLocationStatus) -> bool:
    """Return whether only figures of space differ: those are not worth a write each time."""
    return _without_bytes(one) == _without_bytes(other)


def _without_bytes(status: VMBackupLocationStatus) -> VMBackupLocationStatus:
    nodes = tuple(node.model_copy(update={"free_bytes": 0, "total_bytes": 0}) for node in status.nodes)
    return status.model_copy(update={"nodes": nodes})


def _spaces(name: str, hosts: Mapping[str, VMHost], live_nodes: Collection[str]) -> Iterable[NodeSpace]:
    for node in sorted(hosts):
        seen = next((space for space in hosts[node].status.locations if space.location == name), None)
        if seen is None:
            continue
        silent = node not in live_nodes
        yield NodeSpace(
            node=node,
            ready=seen.ready and not silent,
            message="the agent is silent" if silent else cut(seen.message, LONGEST_REASON),
            free_bytes=seen.free_bytes,
            total_bytes=seen.total_bytes,
        )


def _verdict(nodes: Collection[NodeSpace]) -> tuple[Truth, Reason, str]:
    if not nodes:
        return "False", Reason.NO_NODE, "No agent has looked at this location yet."
    unable = [node for node in nodes if not node.ready]
    shown = "; ".join(f"{node.node}: {node.message or 'not ready'}" for node in unable[:MOST_NAMED])
    more = f"; and {len(unable) - MOST_NAMED} more nodes" if len(unable) > MOST_NAMED else ""
    if len(unable) == len(nodes):
        return "False", Reason.LOCATION_UNUSABLE, f"No node can write here. {shown}{more}"
    cannot = f"; not on {shown}{more}" if unable else ""
    return "True", Reason.READY, f"Ready on {len(nodes) - len(unable)} of {len(nodes)} nodes{cannot}"
