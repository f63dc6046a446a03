"""A set that is there already, as the VMBackup that stands for it."""

from typing import Any

from vmbackup.api import names
from vmbackup.api.conditions import ConditionType
from vmbackup.api.manifest import Manifest
from vmbackup.api.spec import Verify
from vmbackup.api.vmbackup import DiskReport, MethodReport, Outcome, Phase, Summary, VMBackup, VMBackupStatus
from vmbackup.core.ending import verify_reason
from vmbackup.core.kstatus import Stamp, Truth, cut, done_well, epoch, rfc3339, state

LONGEST_NAME = 63


def set_uid(backup: VMBackup) -> str:
    """Return the UID in the manifest of a VMBackup's set: its own, or the one of the VMBackup that it was made by."""
    return backup.metadata.annotations.get(names.ANNOTATION_IMPORTED) or backup.metadata.uid


def imported_body(manifest: Manifest, location: str, *, schedule: str = "", plain: bool = True) -> dict[str, Any]:
    """Return the VMBackup to make for a set. `plain=False`: another one has its name.

    The annotation is there from the first moment: without it the controller would begin a backup.
    """
    name = manifest.backup_name if plain else f"{manifest.backup_name[: LONGEST_NAME - 9]}-{manifest.backup_uid[:8]}"
    labels = {"labels": {names.LABEL_SCHEDULE: schedule, names.LABEL_RUN: "imported"}} if schedule else {}
    return {
        "apiVersion": names.API_VERSION,
        "kind": "VMBackup",
        "metadata": {
            "name": name,
            "namespace": manifest.backup_namespace,
            "annotations": {names.ANNOTATION_IMPORTED: manifest.backup_uid},
            **labels,
        },
        "spec": {"source": {"name": manifest.vm}, "location": location, "verify": str(_verified(manifest))},
    }


def imported_status(manifest: Manifest, path: str, stored_bytes: int, stamp: Stamp) -> VMBackupStatus:
    """Return what the VMBackup says: what the manifest says."""
    verify = _verified(manifest)
    conditions = done_well((), f"VM {manifest.vm} is backed up: {path}. Imported from its manifest.", stamp)
    truth: Truth = "False" if verify is Verify.NONE else "True"
    conditions = state(conditions, ConditionType.VERIFIED, truth, verify_reason(verify), "As its manifest says.", stamp)
    return VMBackupStatus(
        observed_generation=stamp.generation,
        node=manifest.node,
        phase=Phase.DONE,
        outcome=Outcome.SUCCEEDED,
        method=MethodReport(used=manifest.method, reason=cut(manifest.method_reason, 512)),
        disks=tuple(
            DiskReport(
                name=disk.target,
                format=disk.format,
                virtual_bytes=disk.virtual_bytes,
                stored_bytes=disk.stored_bytes,
                state="Copied" if verify is Verify.NONE else "Verified",
                sha256=disk.sha256,
            )
            for disk in manifest.disks
        ),
        start_time=rfc3339(epoch(manifest.point_in_time)),
        completion_time=rfc3339(epoch(manifest.published)),
        stored_bytes=stored_bytes,
        summary=Summary.of(percent=100, stored_bytes=stored_bytes),
        set=path,
        conditions=conditions,
    )


def _verified(manifest: Manifest) -> Verify:
    """Return how far the set was verified; a word that this version does not know counts for nothing."""
    return Verify(manifest.verified) if manifest.verified in set(Verify) else Verify.NONE
