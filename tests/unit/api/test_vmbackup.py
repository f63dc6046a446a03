"""The VMBackup model: what users may write, and that it survives every trip through JSON."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vmbackup.api.conditions import Condition
from vmbackup.api.vmbackup import (
    DiskReport,
    DiskSelection,
    Method,
    MethodReport,
    Outcome,
    Phase,
    Progress,
    Quiesce,
    Source,
    Summary,
    Verify,
    VMBackup,
    VMBackupSpec,
    VMBackupStatus,
)

MINIMAL: dict[str, Any] = {"source": {"name": "web"}, "location": "local"}

DISKS = st.from_regex(r"[a-z]{1,8}[a-z0-9]{0,8}", fullmatch=True)
QUANTITIES = st.from_regex(r"[1-9][0-9]{0,14}(k|Mi|G|Ti)?", fullmatch=True, alphabet=st.characters(codec="ascii"))
VM_NAMES = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,20}[A-Za-z0-9])?", fullmatch=True)
SPECS = st.builds(
    VMBackupSpec,
    source=st.builds(Source, name=VM_NAMES, node=st.none() | st.just("node-1")),
    location=st.just("local"),
    method=st.sampled_from(Method),
    disks=st.builds(DiskSelection, include=st.lists(DISKS, max_size=3).map(tuple), exclude=st.just(())),
    quiesce=st.sampled_from(Quiesce),
    verify=st.sampled_from(Verify),
    max_bytes_per_second=st.none() | QUANTITIES,
    deadline_seconds=st.integers(1, 604800),
    cancel=st.booleans(),
    ttl_seconds_after_finished=st.none() | st.integers(0, 1000),
)
SIZES = st.integers(0, 2**62)
STATUSES = st.builds(
    VMBackupStatus,
    observed_generation=st.integers(0, 9),
    node=st.none() | st.just("node-1"),
    phase=st.sampled_from(Phase),
    outcome=st.none() | st.sampled_from(Outcome),
    method=st.none() | st.builds(MethodReport, used=st.sampled_from(Method), reason=st.text(max_size=20)),
    disks=st.lists(
        st.builds(DiskReport, name=DISKS, state=st.sampled_from(["Skipped", "Copied"]), virtual_bytes=SIZES), max_size=3
    ).map(tuple),
    progress=st.none() | st.builds(Progress, bytes_done=SIZES, bytes_total=SIZES, eta_seconds=st.none() | SIZES),
    conditions=st.just((Condition(type="Ready", status="False", reason="Queued", last_transition_time="2026-01-01"),)),
)


def dump(document: Any) -> Any:
    """Return what the API server would hold."""
    return json.loads(document.model_dump_json(by_alias=True, exclude_none=True))


@given(SPECS)
def test_spec_survives_the_api_server(spec: VMBackupSpec) -> None:
    assert VMBackupSpec.model_validate(dump(spec)) == spec


@given(STATUSES)
def test_status_survives_the_api_server(status: VMBackupStatus) -> None:
    assert VMBackupStatus.model_validate(dump(status)) == status


def test_shortest_spec_means_a_careful_backup_of_all_disks() -> None:
    spec = VMBackupSpec.model_validate(MINIMAL)
    assert (spec.method, spec.quiesce, spec.verify) == (Method.AUTO, Quiesce.IF_AVAILABLE, Verify.CHECK)
    assert spec.disks == DiskSelection()
    assert (spec.limit_bytes_per_second, spec.cancel, spec.ttl_seconds_after_finished) == (0, False, None)


def test_speed_limit_is_read_in_bytes() -> None:
    assert VMBackupSpec.model_validate(MINIMAL | {"maxBytesPerSecond": "10Mi"}).limit_bytes_per_second == 10 * 1024**2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("method", "Pull"),
        ("path", "/etc"),
        ("source", {"name": "../web"}),
        ("source", {"name": "-web"}),
        ("source", {"name": "web\n"}),
        ("source", {"name": "w" * 181}),
        ("source", {"name": "web", "path": "/x"}),
        ("location", "../local"),
        ("disks", {"include": ["/dev/sda"]}),
        ("disks", {"include": ["vda"], "exclude": ["vdb"]}),
        ("disks", {"include": ["vda"] * 65}),
        ("deadlineSeconds", 0),
        ("maxBytesPerSecond", "0"),
        ("maxBytesPerSecond", "1.5Gi"),
        ("overlay", {"maxBytes": "-1"}),
    ],
)
def test_a_spec_that_no_api_server_saw_is_checked_too(field: str, value: object) -> None:
    with pytest.raises(ValidationError):
        VMBackupSpec.model_validate(MINIMAL | {field: value})


def test_status_of_a_newer_version_is_read_for_what_we_know() -> None:
    body = {"metadata": {"name": "b", "labels": {}}, "spec": MINIMAL, "status": {"phase": "Copying", "mood": "good"}}
    backup = VMBackup.parse(body | {"apiVersion": "vmbackup.dev/v1alpha1", "kind": "VMBackup"})
    assert backup.status.phase is Phase.COPYING


def test_resource_without_a_status_is_pending() -> None:
    backup = VMBackup.parse({"metadata": {"name": "b", "namespace": "demo"}, "spec": MINIMAL})
    assert (backup.status.phase, backup.key, backup.finished) == (Phase.PENDING, "demo/b", False)


def test_summary_leaves_unknown_columns_empty() -> None:
    assert Summary.of(percent=0) == Summary(progress="0%", size="", duration="")
    assert Summary.of(percent=100, stored_bytes=3 * 512 * 1024**2, seconds=185) == Summary(
        progress="100%", size="1.5 GiB", duration="3m05s"
    )
