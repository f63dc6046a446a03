"""What lies on the node of the fake hypervisor: images, disks made of them, and a push job over them."""

from collections.abc import MutableMapping
from dataclasses import dataclass, field

from vmbackup.core.facts import BlockJob
from vmbackup.units import MIB

Files = MutableMapping[str, int]


@dataclass
class FakeImage:
    """One file on the node: its format and what lies below it. `commits` counts writes by block-commit."""

    format: str
    kind: str = "file"
    backing: str | None = None
    commits: int = 0


@dataclass
class FakeDisk:
    """One disk; `backing` are the layers below `source`, top to bottom, all of them qcow2 but the last."""

    target: str
    source: str = ""
    format: str = "qcow2"
    backing: tuple[str, ...] = ()
    device: str = "disk"
    kind: str = "file"
    readonly: bool = False
    shareable: bool = False
    transient: bool = False
    virtual_bytes: int = 64 * MIB
    allocated_bytes: int = 8 * MIB
    inactive_source: str = ""
    job: BlockJob | None = None

    def __post_init__(self) -> None:
        self.inactive_source = self.inactive_source or self.source


@dataclass
class FakePush:
    """The running push job. `files`: where its targets are outside of the pod that it runs in."""

    targets: dict[str, str]
    bytes_total: int
    bytes_done: int = 0
    bytes_per_second: int = 0
    error: str = ""
    ghost: bool = False
    files: dict[str, str] = field(default_factory=dict)
    reused: bool = False
