"""What the core looks at, with as little said as a test needs: a snapshot run of one disk on a VM that runs."""

from dataclasses import replace
from typing import Any

from vmbackup.api import names
from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Failure, Run, RunDisk
from vmbackup.api.vmbackup import Method, Outcome, Phase, VMBackupSpec
from vmbackup.core.facts import BlockJob, DiskFacts, DomainFacts, Facts, HostFacts, Image, LastAct, StoreFacts
from vmbackup.core.rules import View
from vmbackup.core.steps import Step
from vmbackup.errors import Failed, VMBackupError
from vmbackup.units import GIB, MIB

T0 = 1_790_000_000.0
UID = "7b0f3c51-0000-4000-8000-000000000001"
OTHER_UID = "7b0f3c51-0000-4000-8000-000000000002"
UUID = "c7a5fdbd-edaf-9455-926a-d65c16db1809"
BORN = "boot.1000.1"  # the QEMU that the run began with
REBORN = "boot.1001.2"
BASE = "/images/vda.qcow2"
OVERLAY = f"/images/{names.overlay_name(UID, 1, 'vda')}"
EMPTY, WRITTEN = 196_608, 8 * MIB
NEW_HOST = HostFacts(libvirt_version=9_000_000, hypervisor_version=7_002_022)
OLD_HOST = HostFacts(libvirt_version=7_000_000, hypervisor_version=5_002_000)


def spec(**parts: Any) -> VMBackupSpec:
    return VMBackupSpec.model_validate({"source": {"name": "vm1"}, "location": "nightly", **parts})


def run_disk(**changes: Any) -> RunDisk:
    target = changes.get("target", "vda")
    fields: dict[str, Any] = {
        "target": target,
        "source": f"/images/{target}.qcow2",
        "source_kind": "file",
        "source_format": "qcow2",
        "inactive_source": f"/images/{target}.qcow2",
        "virtual_bytes": GIB,
        "allocated_bytes": 8 * MIB,
        "image": f"{target}.qcow2",
        "image_format": "qcow2",
        "overlay": f"/images/{names.overlay_name(UID, 1, target)}",
    }
    return RunDisk(**{**fields, **changes})


def a_run(phase: Phase = Phase.PREPARING, method: Method = Method.SNAPSHOT, **changes: Any) -> Run:
    fields: dict[str, Any] = {
        "uid": UID,
        "namespace": "demo",
        "name": "first",
        "domain": "demo_vm1",
        "domain_uuid": UUID,
        "vm": "vm1",
        "instance": BORN,
        "spec": spec(**changes.pop("spec", {})),
        "location_path": "/backups",
        "overlay_directory": "/overlays",
        "set_path": "demo/vm1/20260921T141320Z-first-7b0f3c51",
        "method": method,
        "method_reason": "asked for",
        "disks": (run_disk(),),
        "phase": phase,
        "started_at": T0,
        "attempt_started_at": T0,
    }
    return Run(**{**fields, **changes})


def over(outcome: Outcome = Outcome.FAILED, *, heals: bool = False) -> dict[str, Any]:
    """Return the fields of a run whose outcome is fixed."""
    return {"outcome": outcome, "failure": Failure(reason=Reason.COPY_FAILED, message="it went wrong", heals=heals)}


def a_disk(**changes: Any) -> DiskFacts:
    """Return a disk on its base; its definition names the same source."""
    target = changes.get("target", "vda")
    fields: dict[str, Any] = {
        "target": target,
        "source": f"/images/{target}.qcow2",
        "format": "qcow2",
        "virtual_bytes": GIB,
        "allocated_bytes": 8 * MIB,
    }
    fields |= changes
    return DiskFacts(**({"inactive_source": fields["source"]} | fields))


def on_overlay(base: str = BASE, **changes: Any) -> DiskFacts:
    """Return a disk on our overlay, as libvirt leaves it after the snapshot."""
    return a_disk(source=OVERLAY, backing=(Image(base, "qcow2", "file"),), **changes)


def committing(*, ready: bool = False) -> BlockJob:
    return BlockJob("active-commit", GIB, GIB, ready, BASE)


def a_domain(*disks: DiskFacts, **changes: Any) -> DomainFacts:
    fields: dict[str, Any] = {"name": "demo_vm1", "uuid": UUID, "state": "running", "instance": BORN}
    fields |= changes
    if fields["state"] in ("off", "absent"):
        fields["instance"] = ""
    return DomainFacts(**fields, disks=disks or (a_disk(),))


def absent() -> DomainFacts:
    return DomainFacts("demo_vm1", UUID, "absent")


def facts(domain: DomainFacts | None = None, store: StoreFacts | None = None, **changes: Any) -> Facts:
    plenty = StoreFacts(free_bytes=100 * GIB, reserve_bytes=GIB, partial=True, overlay_free_bytes=100 * GIB)
    return Facts(**{"domain": domain or a_domain(), "store": store or plenty, **changes})


def store(**changes: Any) -> StoreFacts:
    return replace(facts().store, **changes)


def view(run: Run, seen: Facts | None = None, now: float = T0 + 10) -> View:
    return View(run, seen or facts(), now)


def did(step: Step, error: VMBackupError | None = None, value: int | None = None) -> LastAct:
    return LastAct(step, error, value)


def said_no(words: str = "said no", *, heals: bool = False) -> Failed:
    return Failed(Reason.HYPERVISOR_ERROR, words, heals=heals)
