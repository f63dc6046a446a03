"""VMHost: what one node can do and which VMs it has. Written by the agent of that node, on change only."""

from typing import Literal

from pydantic import Field

from vmbackup.api.conditions import Conditions
from vmbackup.api.location import NodeSpace
from vmbackup.api.model import Report
from vmbackup.api.schema import ATOMIC, keyed_by
from vmbackup.api.vmbackup import Method, ObjectMeta


class MethodSupport(Report):
    """Whether this node can use a method."""

    method: Method = Field(description="The method in question: Push or Snapshot.")
    supported: bool = Field(description="Whether the method works on this node.")
    reason: str = Field(max_length=512, description="Why it works or why it does not.")


class HostedVM(Report):
    """One VM of the node, by the name that a VMBackup of its namespace uses."""

    name: str = Field(max_length=253, description="Name by which a VMBackup of the namespace calls the VM.")
    namespace: str = Field(
        default="",
        max_length=63,
        description="Namespace that may back it up. Empty when none claims it; then nobody can.",
    )
    domain: str = Field(max_length=253, description="Name of the libvirt domain.")
    uuid: str = Field(max_length=36, description="UUID of the libvirt domain.")
    running: bool = Field(description="Whether the VM is running, as it must be for a backup.")


class LocationSpace(NodeSpace):
    """What this node sees of one location; the controller gathers them into the location's status."""

    location: str = Field(max_length=253, description="Name of the VMBackupLocation that is looked at.")


class VMHostStatus(Report):
    """What the agent of the node has found there."""

    session: str = Field(
        default="", max_length=64, description="Random word that tells one start of the agent from another."
    )
    libvirt_version: str = Field(default="", max_length=32, description="Version of the libvirt daemon on the node.")
    hypervisor_version: str = Field(default="", max_length=32, description="Version of QEMU that the daemon uses.")
    methods: tuple[MethodSupport, ...] = Field(
        default=(),
        max_length=8,
        description="Which methods work on this node, and why not the others.",
        json_schema_extra=keyed_by("method"),
    )
    vms: tuple[HostedVM, ...] = Field(
        default=(),
        max_length=5000,
        description="Every VM of the node that could be named in a VMBackup.",
        json_schema_extra=ATOMIC,
    )
    locations: tuple[LocationSpace, ...] = Field(
        default=(), max_length=256, description="What the node sees of each VMBackupLocation.", json_schema_extra=ATOMIC
    )
    conditions: Conditions = ()


class VMHost(Report):
    """A node with libvirt, as its agent sees it."""

    api_version: str = ""
    kind: Literal["VMHost"] = "VMHost"
    metadata: ObjectMeta
    status: VMHostStatus = Field(default_factory=VMHostStatus)
