"""What a schedule proves of its sets: that the newest one boots, and that old ones are still what they were."""

from pydantic import Field

from vmbackup.api.model import Document
from vmbackup.api.restore_spec import BootProof
from vmbackup.api.spec import Quantity

DAY_SECONDS = 86400


class BootPolicy(BootProof):
    """Boots the newest set of each VM as an isolated copy, as a VMRestore with `proof` does."""

    interval_seconds: int = Field(
        default=0,
        ge=0,
        le=31536000,
        description="Seconds that must have passed since a set of the VM was booted; 0 boots every new set.",
    )


class ScrubPolicy(Document):
    """Reads old sets again, one at a time, and compares them with their digests."""

    interval_seconds: int = Field(
        default=30 * DAY_SECONDS,
        ge=3600,
        le=315360000,
        description="Seconds after which a set is read again, from its publication or from the last time.",
    )
    max_bytes_per_second: Quantity = Field(
        default="50Mi", description="Upper bound of the speed of reading, for each disk, such as 50Mi."
    )


class ProofPolicy(Document):
    """What is proved of the sets of a schedule. Each proof is a VMRestore, and its result is told by the VMBackup."""

    boot: BootPolicy | None = Field(
        default=None, description="Boot the newest set of each VM, without network; nothing is booted without it."
    )
    scrub: ScrubPolicy | None = Field(
        default=None, description="Read old sets again from time to time; none is read again without it."
    )
