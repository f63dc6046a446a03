"""What to do about traces of ours on a VM of which the journal knows nothing: bring the VM home.

A journal can be lost with a node's disk. Our overlays and push targets carry the UID in their names, so what belongs
to us is found without it; what is not certain to be ours is left alone.
"""

import posixpath
from collections.abc import Collection

from vmbackup.api import names
from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Failure, Freeze, Launcher, Run, RunDisk
from vmbackup.api.vmbackup import Method, Outcome, Phase, Source, VMBackupSpec
from vmbackup.core.facts import DiskFacts, DomainFacts
from vmbackup.core.plan import Request, set_path

LOST = "lost-and-found"  # stands for a name that nobody knows any more
NO_SET = f"{LOST}/{LOST}/{LOST}"


def rescue(domain: DomainFacts, known: Collection[str], now: float, launcher: Launcher | None = None) -> Run | None:
    """Return a run that takes the VM home, None when nothing on it is ours or the journal knows of it.

    known: UIDs of the runs in the journal. launcher: the VM's pod, if it is in one. A VM that is off is left as it is:
    it boots on our overlay, then comes home.
    """
    if not domain.alive:
        return None
    if launcher is not None:
        return _from_pod(domain, known, now, launcher)
    return _from_overlays(domain, known, now) or _from_push(domain, known, now)


def adopted(lost: Run, request: Request) -> Run:
    """Return the run of a lost journal as the run of the request that it belongs to: it goes home, then tries again."""
    assert lost.failure is not None, "rescue() says why"
    return lost.model_copy(
        update={
            "namespace": request.namespace,
            "name": request.name,
            "vm": request.spec.source.name,
            "spec": request.spec,
            "location_path": lost.location_path or request.location_path,
            "overlay_directory": request.overlay_directory,
            "set_path": set_path(request, lost.started_at) if lost.set_path == NO_SET else lost.set_path,
            "min_free": request.min_free,
            "stall_seconds": request.stall_seconds,
            "started_at": request.started_at,
            "failure": lost.failure.model_copy(update={"heals": True}),
        }
    )


def _from_overlays(domain: DomainFacts, known: Collection[str], now: float) -> Run | None:
    ours = [(disk, found) for disk in domain.disks if (found := _overlay(disk)) and found[0] not in known]
    if not ours:
        return None
    uid, attempt = ours[0][1]
    disks = tuple(_disk(disk) for disk, found in ours if found == (uid, attempt) and disk.backing)
    if not disks:
        return None
    return _run(domain, uid, attempt, now).model_copy(
        update={
            "method": Method.SNAPSHOT,
            "phase": Phase.COMMITTING,
            "disks": disks,
            "overlay_at": now,
            "location_path": "",
        }
    )


def _from_push(domain: DomainFacts, known: Collection[str], now: float) -> Run | None:
    partial = names.read_partial(_target_directory(domain))
    if partial is None or not partial.location or partial.uid in known:
        return None
    return _pushed(domain, partial, now).model_copy(
        update={"location_path": partial.location, "set_path": partial.set_path}
    )


def _from_pod(domain: DomainFacts, known: Collection[str], now: float, launcher: Launcher) -> Run | None:
    """As `_from_push`; the pod does not know of which location the directory is that it sees."""
    at, _, name = _target_directory(domain).rpartition("/")
    partial = names.read_partial(name)
    if partial is None or at != launcher.directory or partial.uid in known:
        return None
    namespace, _, vm = domain.name.partition("_")
    return _pushed(domain, partial, now).model_copy(
        update={"launcher": launcher, "mounted": True, "set_path": f"{namespace}/{vm}/{partial.set_path}"}
    )


def _target_directory(domain: DomainFacts) -> str:
    """Return where a job writes to, empty when there is none or it writes to several directories."""
    targets = domain.job.targets if domain.job else {}
    directories = {posixpath.dirname(path) for path in targets.values()}
    return directories.pop() if len(directories) == 1 else ""


def abandoned(domain: DomainFacts, uid: str, attempt: int, launcher: Launcher, now: float) -> Run:
    """Return a run that takes an unfinished set from its pod and removes it: no job writes to it any more."""
    changes = {"method": Method.PUSH, "phase": Phase.DISCARDING, "launcher": launcher, "mounted": True}
    return _run(domain, uid, attempt, now).model_copy(update=changes)


def _pushed(domain: DomainFacts, partial: names.Partial, now: float) -> Run:
    targets = domain.job.targets if domain.job else {}
    disks = tuple(
        RunDisk(
            target=target,
            source="",
            source_kind="file",
            source_format="",
            virtual_bytes=0,
            image=posixpath.basename(path),
            image_format="qcow2",
        )
        for target, path in targets.items()
    )
    run = _run(domain, partial.uid, partial.attempt, now)
    return run.model_copy(update={"method": Method.PUSH, "phase": Phase.COPYING, "disks": disks})


def _overlay(disk: DiskFacts) -> tuple[str, int] | None:
    name = posixpath.basename(disk.source)
    uid = names.overlay_uid(name)
    return (uid, int(name.split(".")[3])) if uid else None


def _disk(disk: DiskFacts) -> RunDisk:
    base = disk.backing[0]
    return RunDisk(
        target=disk.target,
        source=base.path,
        source_kind="block" if base.kind == "block" else "file",
        source_format=base.format,
        virtual_bytes=disk.virtual_bytes,
        image="",
        image_format="",
        overlay=disk.source,
    )


def _run(domain: DomainFacts, uid: str, attempt: int, now: float) -> Run:
    message = f"VM {domain.name}: found with traces of backup {uid} that the journal of this node has lost"
    return Run(
        uid=uid,
        namespace=LOST,
        name=LOST,
        attempt=attempt,
        domain=domain.name,
        domain_uuid=domain.uuid,
        vm=domain.name,
        instance=domain.instance,
        spec=VMBackupSpec(source=Source(name=LOST), location=LOST),
        location_path="",
        overlay_directory="",
        set_path=NO_SET,
        method=Method.SNAPSHOT,
        method_reason="found on the VM",
        disks=(),
        outcome=Outcome.FAILED,
        failure=Failure(reason=Reason.INTERRUPTED, message=message),
        freeze=Freeze.INTENDED,
        began=True,
        started_at=now,
        attempt_started_at=now,
    )
