"""A run to try the store with, and how to wait for its works."""

import time
from pathlib import Path
from typing import Any

from vmbackup.api.journal import Run, RunDisk
from vmbackup.api.vmbackup import Method, Source, VMBackupSpec
from vmbackup.core.facts import Work
from vmbackup.core.ports import Store
from vmbackup.store.clock import boot_id

UID = "0f8fad5b-d9cb-469f-a165-70867728950e"
OTHER_UID = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
DOMAIN_UUID = "c7a5fdbd-edaf-9455-926a-d65c16db1809"
SET = "team-a/vm1/20261123T120000Z-nightly-0f8fad5b"
DOMAIN_XML = "<domain type='qemu'><name>team-a_vm1</name></domain>"


def disk_of(source: Path | str, target: str = "vda", format_: str = "raw", **changes: Any) -> RunDisk:
    """Return the record of a disk as it is now. Changes win over what is seen."""
    fields: dict[str, Any] = {
        "target": target,
        "source": str(source),
        "source_kind": "file",
        "source_format": format_,
        "virtual_bytes": Path(source).stat().st_size if Path(source).exists() else 0,
        "image": f"{target}.{'qcow2' if format_ == 'qcow2' else 'img'}",
        "image_format": format_,
    }
    return RunDisk(**{**fields, **changes})


def run_of(location: Path | str, *disks: RunDisk, spec: dict[str, Any] | None = None, **changes: Any) -> Run:
    fields: dict[str, Any] = {
        "uid": UID,
        "namespace": "team-a",
        "name": "nightly",
        "domain": "team-a_vm1",
        "domain_uuid": DOMAIN_UUID,
        "vm": "vm1",
        "instance": f"{boot_id()}.1000.1",
        "spec": VMBackupSpec(source=Source(name="vm1"), location="nightly", **(spec or {})),
        "location_path": str(location),
        "overlay_directory": f"{location}-overlays",
        "set_path": SET,
        "method": Method.SNAPSHOT,
        "method_reason": "asked for",
        "disks": disks,
        "started_at": 1_700_000_000.0,
        "attempt_started_at": 1_700_000_000.0,
    }
    return Run(**{**fields, **changes})


def partial_of(run: Run) -> Path:
    return Path(run.location_path) / run.partial_path


def final_of(run: Run) -> Path:
    return Path(run.location_path) / run.set_path


def ended(store: Store, run: Run, target: str = "vda", seconds: float = 60.0) -> Work:
    """Wait until a work of the run has ended, and return it."""
    until = time.monotonic() + seconds
    while True:
        work = store.observe(run).works[target]
        if work.state != "running":
            return work
        assert time.monotonic() < until, f"the work on {target} did not end: {work}"
        time.sleep(0.005)
