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

    method: Method = Field(description="Push or Snapshot.")
    supported: bool = Field(description="Whether it can.")
    reason: str = Field(max_length=512, description="Why, or why not.")


class HostedVM(Report):
    """One VM of the node, by the name that a VMBackup of its namespace uses."""

    name: str = Field(max_length=253, description="What a VMBackup's source names.")
    namespace: str = Field(default="", max_length=63, description="Empty: claimed by no namespace, so not reachable.")
    domain: str = Field(max_length=253, description="The libvirt domain's name.")
    uuid: str = Field(max_length=36, description="The libvirt domain's UUID.")
    running: bool = Field(description="Whether it can be backed up now.")


class LocationSpace(NodeSpace):
    """What this node sees of one location; the controller gathers them into the location's status."""

    location: str = Field(max_length=253, description="Name of the VMBackupLocation.")


class VMHostStatus(Report):
    """What the agent of the node found."""

    session: str = Field(default="", max_length=64, description="Random word per start of the agent.")
    libvirt_version: str = Field(default="", max_length=32, description="Version of the libvirt daemon.")
    hypervisor_version: str = Field(default="", max_length=32, description="Version of QEMU.")
    methods: tuple[MethodSupport, ...] = Field(
        default=(),
        max_length=8,
        description="Which methods work here, and why not the others.",
        json_schema_extra=keyed_by("method"),
    )
    vms: tuple[HostedVM, ...] = Field(
        default=(), max_length=5000, description="Every VM of the node.", json_schema_extra=ATOMIC
    )
    locations: tuple[LocationSpace, ...] = Field(
        default=(), max_length=256, description="What the node sees of every location.", json_schema_extra=ATOMIC
    )
    conditions: Conditions = ()


class VMHost(Report):
    """A node with libvirt, as its agent sees it."""

    api_version: str = ""
    kind: Literal["VMHost"] = "VMHost"
    metadata: ObjectMeta
    status: VMHostStatus = Field(default_factory=VMHostStatus)
