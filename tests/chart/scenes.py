"""Our resources in every state that they can show, made by the code that reports them, and what they must look like.

`python tests/chart/scenes.py` (PYTHONPATH=operator:tests) writes them as samples for the health checks of Argo CD.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import yaml

from chart.restore_scenes import restores, schedules
from chart.scene import FACTS, GIB, HEALTH, NEW, NODE, SPECS, Health, Kstatus, Scene
from fakes.objects import T0, host, location
from vmbackup.api import names
from vmbackup.api.conditions import ConditionType, Reason
from vmbackup.api.host import LocationSpace, VMHost, VMHostStatus
from vmbackup.api.journal import Failure, Run, RunDisk
from vmbackup.api.vmbackup import Executor, Method, Outcome, Phase, VMBackupSpec, VMBackupStatus
from vmbackup.core.decide import TABLES
from vmbackup.core.kstatus import Stamp, state
from vmbackup.core.location_report import location_status
from vmbackup.core.report import status_of
from vmbackup.core.turn_report import status_of_turn
from vmbackup.core.turns import Bind, Refuse, Turn, Wait

CUSTOMIZATIONS = Path(__file__).resolve().parents[2] / "manifests/argocd/resource_customizations" / names.GROUP
DISK = RunDisk(
    target="vda",
    source="/var/lib/libvirt/images/web.qcow2",
    source_kind="file",
    source_format="qcow2",
    virtual_bytes=4 * GIB,
    image="vda.qcow2",
    image_format="qcow2",
)


def run(phase: Phase, method: Method = Method.PUSH, outcome: Outcome | None = None, **changes: Any) -> Run:
    bad = outcome not in (None, Outcome.SUCCEEDED)
    fields: dict[str, Any] = {
        "uid": NEW.metadata.uid,
        "namespace": "team-a",
        "name": "nightly",
        "domain": "team-a_web",
        "domain_uuid": FACTS.domain.uuid if FACTS.domain else "",
        "vm": "web",
        "instance": "boot/1/1",
        "spec": VMBackupSpec.model_validate(SPECS["VMBackup"]),
        "location_path": "/srv/backups",
        "overlay_directory": "/srv/overlays",
        "set_path": "team-a/web/20260921T141320Z-nightly-7b0f3c51",
        "method": method,
        "method_reason": "libvirt 9.0.0 supports full push",
        "disks": (DISK,),
        "phase": phase,
        "outcome": outcome,
        "failure": Failure(reason=Reason.COPY_FAILED, message="VM web, disk vda: no room") if bad else None,
        "started_at": T0,
        "attempt_started_at": T0,
        "finished_at": T0 + 100 if phase is Phase.DONE else None,
    }
    return Run(**(fields | changes))


def report(run: Run) -> VMBackupStatus:
    assigned = status_of_turn(Bind(NEW, NODE), T0)
    return status_of(run, FACTS, assigned, T0 + 5, generation=1, executor=Executor(node=NODE, session="s1"))


def turned(turn: Turn) -> VMBackupStatus:
    return status_of_turn(turn, T0)


def backups() -> Iterator[Scene]:
    def scene(name: str, status: VMBackupStatus | None, kstatus: Kstatus, generation: int = 1) -> Scene:
        return Scene(name, "VMBackup", status, kstatus, HEALTH[kstatus], generation)

    yield scene("queued", turned(Wait(NEW, Reason.QUEUED, "2 backups of this node come first.")), "InProgress")
    yield scene("waiting-for-vm", turned(Wait(NEW, Reason.WAITING_FOR_VM, "No node has a VM web.")), "InProgress")
    yield scene("assigned", turned(Bind(NEW, NODE)), "InProgress")
    for method, table in TABLES.items():
        for phase in table:
            if phase is Phase.DONE:
                continue
            yield scene(f"{method}-{phase}".lower(), report(run(phase, method)), "InProgress")
            # The outcome is decided, and the VM is on its way home: not over yet.
            home = run(phase, method, Outcome.FAILED)
            yield scene(f"{method}-{phase}-going-home".lower(), report(home), "InProgress")
    yield scene("refused", turned(Refuse(NEW, Reason.VM_NOT_FOUND, "No node has a VM web.")), "Failed")
    verdicts: dict[Outcome, Kstatus] = dict.fromkeys(Outcome, "Failed") | {Outcome.SUCCEEDED: "Current"}
    for outcome, verdict in verdicts.items():
        done = report(run(Phase.DONE, outcome=outcome))
        yield scene(f"done-{outcome}".lower(), done, verdict)
    yield scene("cancel-not-seen-yet", report(run(Phase.COPYING)), "InProgress", generation=2)


def locations() -> Iterator[Scene]:
    nightly = location()
    generation = nightly.metadata.generation

    def scene(name: str, nodes: dict[str, bool], kstatus: Kstatus, health: Health) -> Scene:
        hosts = {node: host_with(node, ready=ready) for node, ready in nodes.items()}
        status = location_status(nightly, hosts, set(nodes), T0)
        return Scene(name, "VMBackupLocation", status, kstatus, health, generation)

    yield scene("ready", {"node-1": True, "node-2": False}, "Current", "Healthy")
    yield scene("unusable", {"node-1": False, "node-2": False}, "InProgress", "Degraded")
    yield scene("not-looked-at", {}, "InProgress", "Progressing")


def host_with(node: str, *, ready: bool) -> VMHost:
    message = "" if ready else "/srv/backups does not exist"
    space = LocationSpace(location="nightly", node=node, ready=ready, message=message, free_bytes=1, total_bytes=2)
    return host(node, locations=(space,))


def hosts() -> Iterator[Scene]:
    def status(truth: Literal["True", "False"], reason: Reason, message: str) -> VMHostStatus:
        conditions = state((), ConditionType.READY, truth, reason, message, Stamp(T0))
        return VMHostStatus(session="s1", libvirt_version="9.0.0", conditions=conditions)

    yield Scene("ready", "VMHost", status("True", Reason.READY, "3 VMs; libvirt 9.0.0"), "Current", "Healthy")
    away = status("False", Reason.HYPERVISOR_AWAY, "Connecting to qemu:///system: the daemon is away.")
    yield Scene("hypervisor-away", "VMHost", away, "InProgress", "Degraded")


def scenes() -> list[Scene]:
    return [*backups(), *restores(), *schedules(), *locations(), *hosts()]


# Those that are worth a file; the others differ in the phase only.
SAMPLED = {
    *("queued", "push-copying", "snapshot-committing-going-home", "refused"),
    *("copying", "pulling", "discarding-going-home"),
    *(scene.name for scene in [*schedules(), *locations(), *hosts()]),
    *(f"done-{outcome}".lower() for outcome in Outcome),
}


def sample_files() -> dict[Path, str]:
    """Return what Argo CD's own tests read: objects, and the verdict on each."""
    made: dict[Path, str] = {}
    tests: dict[str, list[Any]] = {}
    for scene in scenes():
        if scene.name not in SAMPLED:
            continue
        made[CUSTOMIZATIONS / scene.kind / "testdata" / f"{scene.name}.yaml"] = text(scene.body)
        verdict = {"status": scene.health, "message": scene.message}
        entry = {"healthStatus": verdict, "inputPath": f"testdata/{scene.name}.yaml"}
        tests.setdefault(scene.kind, []).append(entry)
    for kind, entries in tests.items():
        made[CUSTOMIZATIONS / kind / "health_test.yaml"] = text({"tests": entries})
    return made


def text(body: Any) -> str:
    return str(yaml.safe_dump(body, sort_keys=False, allow_unicode=True, width=120))


if __name__ == "__main__":
    for path, content in sample_files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
