"""VMBackupLocation: a directory on the nodes that receives backup sets. Written by administrators."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from vmbackup.api.conditions import Conditions
from vmbackup.api.model import Document, Report
from vmbackup.api.retention import KeepRules
from vmbackup.api.schema import ATOMIC, DISTINCT, explained, rule
from vmbackup.api.vmbackup import ObjectMeta

PERCENT_OR_QUANTITY = r"^([0-9]|[1-9][0-9])%$|^(0|[1-9][0-9]{0,14}(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?)$"
# A component may begin with a dot but is not '.' or '..'.
DIRECTORY_PATTERN = r"^(/\.{0,2}[A-Za-z0-9_@%+-][A-Za-z0-9._@%+-]*)+$"
NAMESPACE_PATTERN = r"^([*]|[a-z0-9]([-a-z0-9]*[a-z0-9])?)$"

DirectoryPath = Annotated[
    str,
    Field(
        min_length=2,
        max_length=512,
        pattern=DIRECTORY_PATTERN,
        json_schema_extra=explained(
            "Write an absolute path without '.' and '..', without a slash at the end, "
            "with letters, digits and . _ @ % + - in its components: /srv/backups."
        ),
    ),
]
NamespaceName = Annotated[
    str,
    Field(
        max_length=63,
        pattern=NAMESPACE_PATTERN,
        json_schema_extra=explained("Write the name of a namespace, or '*' for all."),
    ),
]
LabelText = Annotated[str, Field(max_length=317)]


class Directory(Document):
    """A directory that exists on the nodes; the operator never makes it."""

    model_config = ConfigDict(
        json_schema_extra=rule(
            "self.path == oldSelf.path",
            "path cannot be changed: the sets below the old path would be lost from view. "
            "Make a new VMBackupLocation for the new path.",
            field=".path",
        )
    )

    path: DirectoryPath = Field(
        description="Absolute path of the directory on the nodes, without links and without '..'."
    )
    shared: bool = Field(default=False, description="Whether all nodes see the same files there, as on a mounted NFS.")


class NamespaceSelector(Document):
    """Which namespaces may write here, by name or by labels. With neither, none may."""

    names: tuple[NamespaceName, ...] = Field(
        default=(),
        max_length=256,
        description="Names of namespaces that may write here; '*' allows all.",
        json_schema_extra=DISTINCT,
    )
    match_labels: dict[LabelText, Annotated[str, Field(max_length=63)]] = Field(
        default_factory=dict,
        max_length=32,
        description="Namespaces that carry all of these labels may write here.",
        json_schema_extra=rule(
            "self.all(key, key.size() <= 317)", "A label's key has at most 317 characters: shorten it."
        ),
    )


class VMBackupLocationSpec(Document):
    """Where the sets go, who may write there and how much."""

    directory: Directory
    allowed_namespaces: NamespaceSelector = Field(default_factory=NamespaceSelector)
    min_free: str = Field(
        default="5%",
        max_length=18,
        pattern=PERCENT_OR_QUANTITY,
        description="Space that backups leave free, as bytes (10Gi) or as a part of the file system (5%).",
        json_schema_extra=explained("Write a percentage from 0% to 99%, or a size as a whole number: 5% or 10Gi."),
    )
    max_concurrent: int = Field(
        default=4, ge=1, le=1000, description="How many backups may write here at the same time."
    )
    retention: KeepRules | None = Field(
        default=None,
        description="The least that is kept of each VM here, whatever a schedule says. Alone it removes nothing.",
    )


class NodeSpace(Report):
    """What one node sees of the directory."""

    node: str = Field(max_length=253, description="Name of the node that looks.")
    ready: bool = Field(description="Whether this node's backups can be written there.")
    message: str = Field(default="", max_length=512, description="What is wrong and what to do, when it is not ready.")
    free_bytes: int = Field(default=0, ge=0, description="Free space of the file system, in bytes.")
    total_bytes: int = Field(default=0, ge=0, description="Size of the file system, in bytes.")


class VMBackupLocationStatus(Report):
    """How the location stands, as the nodes see it."""

    observed_generation: int = Field(default=0, ge=0, description="Generation of the spec that this status speaks of.")
    nodes: tuple[NodeSpace, ...] = Field(
        default=(), max_length=5000, description="What each node sees of the directory.", json_schema_extra=ATOMIC
    )
    conditions: Conditions = ()


class VMBackupLocation(Report):
    """A directory that receives backup sets. VMBackups name it; its path is written here and nowhere else."""

    api_version: str = ""
    kind: Literal["VMBackupLocation"] = "VMBackupLocation"
    metadata: ObjectMeta
    spec: VMBackupLocationSpec
    status: VMBackupLocationStatus = Field(default_factory=VMBackupLocationStatus)
