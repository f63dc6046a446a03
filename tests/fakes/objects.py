"""Resources as the API server would return them, with as little said as a test needs."""

from typing import Any

from vmbackup.api import names
from vmbackup.api.host import HostedVM, LocationSpace, VMHost
from vmbackup.api.location import VMBackupLocation
from vmbackup.api.vmbackup import VMBackup

T0 = 1_790_000_000.0  # 2026-09-21T14:13:20Z
CREATED = "2026-09-21T14:13:20Z"


def backup_body(name: str = "b1", namespace: str = "team-a", **parts: Any) -> dict[str, Any]:
    """Return a VMBackup of VM `web` to location `nightly`. parts: `vm`, `node`, `spec`, `status`, `metadata`."""
    source = {"name": parts.get("vm", "web")} | ({"node": parts["node"]} if "node" in parts else {})
    metadata = {
        "name": name,
        "namespace": namespace,
        "uid": f"uid-{namespace}-{name}",
        "resourceVersion": "1",
        "generation": 1,
        "creationTimestamp": CREATED,
    }
    return {
        "apiVersion": names.API_VERSION,
        "kind": "VMBackup",
        "metadata": metadata | parts.get("metadata", {}),
        "spec": {"source": source, "location": "nightly"} | parts.get("spec", {}),
        "status": parts.get("status", {}),
    }


def backup(name: str = "b1", namespace: str = "team-a", **parts: Any) -> VMBackup:
    return VMBackup.parse(backup_body(name, namespace, **parts))


def bound(name: str, node: str, **parts: Any) -> VMBackup:
    return backup(name, status={"node": node, "phase": "Copying"}, **parts)


def uuid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


def vm(name: str = "web", number: int = 1, namespace: str = "team-a", *, running: bool = True) -> HostedVM:
    return HostedVM(name=name, namespace=namespace, domain=f"{namespace}_{name}", uuid=uuid(number), running=running)


def host(node: str, *vms: HostedVM, locations: tuple[LocationSpace, ...] = ()) -> VMHost:
    status = {"vms": [one.model_dump() for one in vms], "locations": [one.model_dump() for one in locations]}
    return VMHost.model_validate({"metadata": {"name": node, "uid": f"uid-{node}"}, "status": status})


def location(name: str = "nightly", **spec: Any) -> VMBackupLocation:
    full = {"directory": {"path": "/srv/backups"}, "allowedNamespaces": {"names": ["team-a"]}} | spec
    return VMBackupLocation.model_validate(
        {"metadata": {"name": name, "uid": f"uid-{name}", "generation": 3}, "spec": full}
    )
