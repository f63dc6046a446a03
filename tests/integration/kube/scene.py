"""A namespace of users with a location, and nodes whose agents are played."""

from typing import Any

from fakes.waiting import eventually
from integration.kube.processes import Node
from vmbackup.api import names
from vmbackup.cluster.client import Client
from vmbackup.cluster.errors import NotFound
from vmbackup.cluster.resources import LOCATION, VMBACKUP

SYSTEM = "vmbackup-system"
PATIENCE_SECONDS = 30.0


class Scene:
    """A namespace with a location that admits it, and nodes with names of its own."""

    def __init__(self, client: Client, namespace: str) -> None:
        self.client = client
        self.namespace = namespace
        self.location = namespace
        self.n1 = self.node("n1")

    def node(self, name: str) -> Node:
        return Node(self.client, SYSTEM, f"{self.namespace}-{name}", self.location)

    def make_location(self, **spec: Any) -> None:
        full = {"directory": {"path": "/srv/backups"}, "allowedNamespaces": {"names": [self.namespace]}} | spec
        body = {"apiVersion": names.API_VERSION, "kind": "VMBackupLocation", "metadata": {"name": self.location}}
        self.client.create(LOCATION.collection(), body | {"spec": full})

    def make(self, name: str, vm_name: str = "web", **spec: Any) -> None:
        body = {
            "apiVersion": names.API_VERSION,
            "kind": "VMBackup",
            "metadata": {"name": name},
            "spec": {"source": {"name": vm_name}, "location": self.location} | spec,
        }
        self.client.create(VMBACKUP.collection(self.namespace), body)

    def read(self, name: str) -> dict[str, Any]:
        return self.client.get(VMBACKUP.path(name, self.namespace))

    def gone(self, name: str) -> bool:
        try:
            self.read(name)
        except NotFound:
            return True
        return False

    def delete(self, name: str) -> None:
        self.client.delete(VMBACKUP.path(name, self.namespace), self.read(name)["metadata"]["uid"])

    def status(self, name: str) -> dict[str, Any]:
        return dict(self.read(name).get("status") or {})

    def condition(self, name: str, type_: str = "Ready") -> dict[str, str]:
        conditions = self.status(name).get("conditions") or ()
        return next((one for one in conditions if one["type"] == type_), {"reason": "", "message": ""})

    def becomes(self, name: str, reason: str) -> dict[str, str]:
        eventually(lambda: self.condition(name)["reason"] == reason, f"{name} {reason}", PATIENCE_SECONDS)
        return self.condition(name)

    def bound(self, name: str, node: Node | None = None) -> None:
        wanted = (node or self.n1).name
        eventually(lambda: self.status(name).get("node") == wanted, f"{name} bound", PATIENCE_SECONDS)

    def finish(self, name: str) -> None:
        self.n1.report(self.namespace, name, phase="Done", outcome="Succeeded", completionTime="2026-01-01T00:00:00Z")
