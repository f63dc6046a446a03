"""VMRestores and VMBackupSchedules in every state that they can show, made by the code that reports them."""

from collections.abc import Iterator
from typing import Any

from chart.scene import FACTS, GIB, HEALTH, NEW, NODE, SPECS, Kstatus, Scene
from fakes.objects import CREATED, T0
from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Failure
from vmbackup.api.model import Report
from vmbackup.api.restore import RestoreKind, RestorePhase, VMRestore
from vmbackup.api.restore_journal import RestoreDisk, RestoreRun
from vmbackup.api.schedule import VMBackupSchedule
from vmbackup.api.vmbackup import Executor, Outcome
from vmbackup.core.children import Child
from vmbackup.core.kstatus import Stamp
from vmbackup.core.restore import TABLE
from vmbackup.core.restore_facts import RestoreFacts, RestoreFiles
from vmbackup.core.restore_report import restore_status
from vmbackup.core.restore_turns import Bind, Refuse, Wait, status_of_restore_turn
from vmbackup.core.schedule_report import Outlook, status_of

SET = "team-a/web/20260921T141320Z-nightly-7b0f3c51"
METADATA = {"namespace": "team-a", "generation": 1, "creationTimestamp": CREATED}
TARGETS: dict[RestoreKind, Any] = {
    RestoreKind.NEW_DOMAIN: {"newDomain": {"name": "web-2"}},
    RestoreKind.PROOF: {"proof": {}},
    RestoreKind.INSTANT: {"instant": {"name": "web-2"}},
}


def restored(phase: RestorePhase, outcome: Outcome | None = None) -> RestoreRun:
    kinds = {RestorePhase.PROVING: RestoreKind.PROOF, RestorePhase.PULLING: RestoreKind.INSTANT}
    kind = kinds.get(phase, RestoreKind.NEW_DOMAIN)
    bad = outcome not in (None, Outcome.SUCCEEDED)
    words = "VM team-a_web-2, disk vda: no room"
    disk = {"target": "vda", "image": "vda.qcow2", "image_format": "qcow2", "virtual_bytes": 4 * GIB}
    made = {"allocated_bytes": GIB, "file": "/var/lib/libvirt/images/team-a/back-uid-team/vda.qcow2", "format": "qcow2"}
    return RestoreRun(
        uid=NEW.metadata.uid,
        namespace="team-a",
        name="back",
        spec=SPECS["VMRestore"] | {"target": TARGETS[kind]},
        kind=kind,
        vm="web",
        location="nightly",
        location_path="/srv/backups",
        set_path=SET,
        backup_uid=NEW.metadata.uid,
        point_in_time="2026-09-21T14:13:20Z",
        images_path="/var/lib/libvirt/images",
        domain="team-a_web-2",
        disks=(RestoreDisk(**disk | made),),
        phase=phase,
        outcome=outcome,
        failure=Failure(reason=Reason.RESTORE_FAILED, message=words) if bad else None,
        started_at=T0,
        finished_at=T0 + 100 if phase is RestorePhase.DONE else None,
    )


def restores() -> Iterator[Scene]:
    new = VMRestore.parse({"metadata": METADATA | {"name": "back"}, "spec": SPECS["VMRestore"]})

    def scene(name: str, status: Report, kstatus: Kstatus) -> Scene:
        return Scene(name, "VMRestore", status, kstatus, HEALTH[kstatus])

    def told(run: RestoreRun) -> Report:
        assigned = status_of_restore_turn(Bind(new, NODE), T0)
        facts = RestoreFacts(RestoreFiles(), domain=FACTS.domain)
        return restore_status(run, facts, assigned, T0 + 5, generation=1, executor=Executor(node=NODE, session="s1"))

    def turn(turn: Wait | Refuse) -> Report:
        return status_of_restore_turn(turn, T0)

    queued = "Waiting for 2 older restores on node node-1."
    yield scene("queued", turn(Wait(new, Reason.QUEUED, queued)), "InProgress")
    yield scene("assigned", status_of_restore_turn(Bind(new, NODE), T0), "InProgress")
    for phase in TABLE:
        if phase is not RestorePhase.DONE:
            yield scene(f"{phase}".lower(), told(restored(phase)), "InProgress")
            yield scene(f"{phase}-going-home".lower(), told(restored(phase, Outcome.FAILED)), "InProgress")
    missing = "There is no VMBackup nightly."
    yield scene("refused", turn(Refuse(new, Reason.SET_NOT_FOUND, missing)), "Failed")
    for outcome in (Outcome.SUCCEEDED, Outcome.FAILED, Outcome.CANCELLED):
        verdict: Kstatus = "Current" if outcome is Outcome.SUCCEEDED else "Failed"
        yield scene(f"done-{outcome}".lower(), told(restored(RestorePhase.DONE, outcome)), verdict)


def schedules() -> Iterator[Scene]:
    def scene(name: str, outlook: Outlook, kstatus: Kstatus, *children: Child, **spec: Any) -> Scene:
        body = {"metadata": METADATA | {"name": "nightly"}, "spec": SPECS["VMBackupSchedule"] | spec, "status": {}}
        status = status_of(VMBackupSchedule.parse(body), outlook, children, None, Stamp(T0, 1))
        return Scene(name, "VMBackupSchedule", status, kstatus, HEALTH[kstatus])

    def child(*, succeeded: bool) -> Child:
        why = "" if succeeded else "CopyFailed: VM web, disk vda: no room"
        times = {"at": T0 - 200, "ended_at": T0 - 100}
        return Child("nightly-web-29", "nightly", "29", "web", "nightly", **times, succeeded=succeeded, why=why)

    web = Outlook(vms=("web",))
    yield scene("no-run-yet", web, "Current")
    yield scene("last-run-succeeded", web, "Current", child(succeeded=True))
    yield scene("suspended", web, "Current", child(succeeded=True), suspend=True)
    yield scene("last-run-failed", web, "Failed", child(succeeded=False))
    yield scene("no-vm", Outlook(), "Failed")
    yield scene("no-such-time-zone", Outlook(("web",), problem="spec.timeZone: there is no zone Mars/Base"), "Failed")
