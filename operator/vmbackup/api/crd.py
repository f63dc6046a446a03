"""CustomResourceDefinitions out of the models: structural schemas, rules, columns. Single source: the models.

`vmbackup-operator crd` and `make crds` write them out; tests/unit/test_drift.py fails when crds/ lags behind.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel

from vmbackup import __version__
from vmbackup.api import names
from vmbackup.api.host import VMHost
from vmbackup.api.location import VMBackupLocation
from vmbackup.api.restore import VMRestore
from vmbackup.api.schedule import VMBackupSchedule
from vmbackup.api.schema import RULES
from vmbackup.api.structural import Schema, structural
from vmbackup.api.vmbackup import VMBackup

HEADER = "# Generated from the models in operator/vmbackup/api by `make crds`: do not edit.\n"
ROOT_PROPERTIES: Schema = {
    "apiVersion": {
        "type": "string",
        "maxLength": 64,
        "description": f"Version of this schema: always {names.API_VERSION}.",
    },
    "kind": {"type": "string", "maxLength": 64, "description": "Kind of the resource, as in its definition."},
    # The name is there for rules to point at it; the API server takes nothing else of metadata.
    "metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 253}}},
}


def condition_field(type_: str, field: str) -> str:
    """Return the JSONPath of a field of one condition."""
    return f'.status.conditions[?(@.type=="{type_}")].{field}'


@dataclass(frozen=True)
class Column:
    """A column of `kubectl get`; `wide` ones need `-o wide`."""

    name: str
    json_path: str
    description: str
    type: str = "string"
    wide: bool = False

    def render(self) -> Schema:
        column: Schema = {
            "name": self.name,
            "type": self.type,
            "jsonPath": self.json_path,
            "description": self.description,
        }
        return column | ({"priority": 1} if self.wide else {})


AGE = Column("Age", ".metadata.creationTimestamp", "Time since the resource was made.", type="date")


@dataclass(frozen=True)
class Resource:
    """What a CRD says beside the schema."""

    model: type[BaseModel]
    plural: str
    scope: str
    short_name: str
    columns: tuple[Column, ...]
    selectable: tuple[str, ...] = ()
    # What the API server shows before anyone reported. An observedGeneration below the generation tells
    # kstatus (Helm --wait, Argo CD, Flux) that the work is not done; without it a new resource counts as done.
    first_status: Mapping[str, Any] | None = None


RESOURCES = (
    Resource(
        VMBackup,
        plural="vmbackups",
        scope="Namespaced",
        short_name="vmb",
        columns=(
            Column("VM", ".spec.source.name", "The VM that is backed up."),
            Column("Method", ".status.method.used", "How the copy is made."),
            Column("Phase", ".status.phase", "What is being done now."),
            Column("Outcome", ".status.outcome", "How it ended, or will end when the VM is home."),
            Column("Progress", ".status.summary.progress", "Part of the copy that is done."),
            Column("Size", ".status.summary.size", "Size of the published set."),
            Column("Node", ".status.node", "Node whose agent does the work."),
            AGE,
            Column("Location", ".spec.location", "Where the set goes.", wide=True),
            Column("Duration", ".status.summary.duration", "From start to completion.", wide=True),
            Column("Reason", condition_field("Succeeded", "reason"), "Why it ended so, or why it waits.", wide=True),
        ),
        selectable=(".status.node", ".status.phase"),
        first_status={"observedGeneration": 0, "phase": "Pending"},
    ),
    Resource(
        VMBackupLocation,
        plural="vmbackuplocations",
        scope="Cluster",
        short_name="vmbl",
        columns=(
            Column("Ready", condition_field("Ready", "status"), "Whether backups can be written there."),
            Column("Path", ".spec.directory.path", "The directory on the nodes."),
            Column("Shared", ".spec.directory.shared", "Whether all nodes see the same files.", type="boolean"),
            AGE,
            Column("MinFree", ".spec.minFree", "Space that backups leave free.", wide=True),
            Column("Message", condition_field("Ready", "message"), "What is wrong when it is not ready.", wide=True),
        ),
        first_status={"observedGeneration": 0},
    ),
    Resource(
        VMRestore,
        plural="vmrestores",
        scope="Namespaced",
        short_name="vmr",
        columns=(
            Column("VM", ".status.vm", "The VM that the set is a backup of."),
            Column("Kind", ".status.kind", "What is made of the set."),
            Column("Phase", ".status.phase", "What is being done now."),
            Column("Outcome", ".status.outcome", "How it ended, or will end."),
            Column("Progress", ".status.summary.progress", "Part of the data that is there."),
            Column("Domain", ".status.domain", "The restored libvirt domain."),
            Column("Node", ".status.node", "Node whose agent does the work."),
            AGE,
            Column("Set", ".status.set", "The set that is restored.", wide=True),
            Column("Duration", ".status.summary.duration", "From start to completion.", wide=True),
            Column("Reason", condition_field("Succeeded", "reason"), "Why it ended so, or why it waits.", wide=True),
        ),
        selectable=(".status.node", ".status.phase"),
        first_status={"observedGeneration": 0, "phase": "Pending"},
    ),
    Resource(
        VMBackupSchedule,
        plural="vmbackupschedules",
        scope="Namespaced",
        short_name="vmbs",
        columns=(
            Column("Schedule", ".spec.schedule", "When."),
            Column("Zone", ".spec.timeZone", "Time zone of the schedule."),
            Column("Suspend", ".spec.suspend", "Whether the clock is stopped.", type="boolean"),
            Column("Ready", condition_field("Ready", "status"), "Whether the last backup of every VM succeeded."),
            Column("Active", ".status.active", "Backups under way.", type="integer"),
            Column("Last", ".status.lastScheduleTime", "Time since the last run.", type="date"),
            Column("Next", ".status.nextScheduleTime", "When the next run begins."),
            AGE,
            Column("VMs", ".status.vms", "VMs that the next run covers.", type="integer", wide=True),
            Column("Success", ".status.lastSuccessfulTime", "Time since the last success.", type="date", wide=True),
            Column("Kept", ".status.retention.kept", "Sets that stay.", type="integer", wide=True),
            Column("Removable", ".status.retention.removable", "Sets that go.", type="integer", wide=True),
            Column("Message", condition_field("Ready", "message"), "How it stands, in words.", wide=True),
        ),
        first_status={"observedGeneration": 0},
    ),
    Resource(
        VMHost,
        plural="vmhosts",
        scope="Cluster",
        short_name="vmh",
        columns=(
            Column("Ready", condition_field("Ready", "status"), "Whether the agent and libvirt answer."),
            Column("Libvirt", ".status.libvirtVersion", "Version of the libvirt daemon."),
            Column("Hypervisor", ".status.hypervisorVersion", "Version of QEMU."),
            Column("Push", '.status.methods[?(@.method=="Push")].supported', "Whether push backup works here."),
            Column("Snapshot", '.status.methods[?(@.method=="Snapshot")].supported', "Whether snapshots work here."),
            AGE,
            Column("Message", condition_field("Ready", "message"), "What is wrong when it is not ready.", wide=True),
        ),
    ),
)


def files() -> dict[str, str]:
    """Return the YAML text of every CRD by file name."""
    return {f"{resource.plural}.yaml": render(resource) for resource in RESOURCES}


class PlainDumper(yaml.SafeDumper):
    """Writes everything out: an anchor is no help to a reader."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def render(resource: Resource) -> str:
    """Return the CRD as YAML text."""
    return HEADER + yaml.dump(definition(resource), Dumper=PlainDumper, sort_keys=False, width=120)


def definition(resource: Resource) -> Schema:
    """Return the CustomResourceDefinition.

    Raises: ValueError: a model says something that a structural schema cannot, or a field is unbounded.
    """
    kind = resource.model.__name__
    version: Schema = {
        "name": names.VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [column.render() for column in resource.columns],
        "schema": {"openAPIV3Schema": root_schema(resource)},
    }
    if resource.selectable:
        version["selectableFields"] = [{"jsonPath": path} for path in resource.selectable]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{resource.plural}.{names.GROUP}",
            "labels": {
                "app.kubernetes.io/name": "vmbackup-operator",
                "app.kubernetes.io/component": "crds",
                "app.kubernetes.io/version": __version__,
            },
        },
        "spec": {
            "group": names.GROUP,
            "scope": resource.scope,
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": resource.plural,
                "singular": kind.lower(),
                "shortNames": [resource.short_name],
                "categories": [names.CATEGORY],
            },
            "versions": [version],
        },
    }


def root_schema(resource: Resource) -> Schema:
    """Return the structural schema of a whole resource; only the spec has defaults, a status is what was reported."""
    raw = resource.model.model_json_schema(by_alias=True)
    definitions = raw.get("$defs", {})
    properties = dict(ROOT_PROPERTIES)
    for name in ("spec", "status"):
        if name in raw["properties"]:
            part = structural(raw["properties"][name], definitions, name, defaults=name == "spec")
            properties[name] = part
    if resource.first_status is not None:
        properties["status"] = properties["status"] | {"default": dict(resource.first_status)}
    schema: Schema = {"type": "object", "description": raw["description"], "properties": properties}
    if "spec" in properties:
        schema["required"] = ["spec"]
    if RULES in raw:
        schema[RULES] = raw[RULES]
    return schema
