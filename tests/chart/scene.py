"""One of our resources in one state, and what the judges must say of it."""

import json
from dataclasses import dataclass
from typing import Any, Literal

from fakes.objects import backup
from vmbackup.api import names
from vmbackup.api.conditions import ConditionType
from vmbackup.api.model import Report
from vmbackup.core.facts import DomainFacts, Facts, StoreFacts

NEW = backup()
NODE = "node-1"
GIB = 1 << 30
FACTS = Facts(DomainFacts("team-a_web", "c7a5fdbd-edaf-9455-926a-d65c16db1809", "running"), StoreFacts())
SPECS: dict[str, Any] = {
    "VMBackup": {"source": {"kind": "Domain", "name": "web"}, "location": "nightly"},
    "VMBackupLocation": {"directory": {"path": "/srv/backups"}, "allowedNamespaces": {"names": ["team-a"]}},
    "VMRestore": {"source": {"backup": "nightly"}, "target": {"newDomain": {"name": "web-2"}}},
    "VMBackupSchedule": {
        "schedule": "30 2 * * *",
        "vms": {"names": ["web"]},
        "template": {"spec": {"location": "nightly"}},
    },
}
Kstatus = Literal["Current", "InProgress", "Failed"]
Health = Literal["Healthy", "Progressing", "Degraded"]
HEALTH: dict[Kstatus, Health] = {"Current": "Healthy", "InProgress": "Progressing", "Failed": "Degraded"}


@dataclass(frozen=True)
class Scene:
    """One object in one state. kstatus, health: what the two judges must say."""

    name: str
    kind: str
    status: Report | None
    kstatus: Kstatus
    health: Health
    generation: int = 1

    @property
    def body(self) -> dict[str, Any]:
        """Return the object as `kubectl get -o yaml` shows it."""
        metadata: dict[str, Any] = {"name": self.name, "generation": self.generation, "uid": NEW.metadata.uid}
        body: dict[str, Any] = {"apiVersion": names.API_VERSION, "kind": self.kind, "metadata": metadata}
        if self.kind in ("VMBackup", "VMRestore", "VMBackupSchedule"):
            metadata["namespace"] = "team-a"
        if self.kind in SPECS:
            body["spec"] = SPECS[self.kind]
        if self.status is not None:
            body["status"] = json.loads(self.status.model_dump_json(by_alias=True, exclude_none=True))
        return body

    @property
    def message(self) -> str:
        """Return reason and message of the condition that a health check shows."""
        conditions = {one["type"]: one for one in self.body["status"]["conditions"]}
        shown = conditions.get(ConditionType.STALLED) or conditions[ConditionType.READY]
        return f"{shown['reason']}: {shown['message']}"
