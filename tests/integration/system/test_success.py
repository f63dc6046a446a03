"""What a user sees of a backup that works."""

import json
from collections import Counter

import pytest

from integration.system.backup import Backup
from integration.system.machines import MIB
from integration.system.story import Story
from integration.system.tenant import Tenant

BEGIN, END = ["Pending", "Assigned", "Preparing", "Freezing"], ["Verifying", "Publishing", "Done"]
ON_THE_WAY = {
    "Push": [*BEGIN, "Starting", "Copying", *END],
    "Snapshot": [*BEGIN, "Snapshotting", "Copying", "Committing", "Pivoting", "Cleaning", *END],
}


@pytest.mark.parametrize(("method", "used"), [("Push", "Push"), ("Snapshot", "Snapshot"), ("Auto", "Push")])
def test_set_is_where_the_status_says(tenant: Tenant, method: str, used: str) -> None:
    domain = tenant.vm(disks=("vda", "vdb"))
    tenant.back_up(method=method, verify="Checksum")
    backup = tenant.until_succeeded()
    assert backup.status["method"]["used"] == used
    assert backup.status["method"]["reason"]
    path = tenant.directory / backup.status["set"]
    assert path.resolve().is_relative_to(tenant.directory)
    assert tenant.sets() == [path]
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["backupUid"] == backup.metadata["uid"]
    digests = {disk["file"]: disk["sha256"] for disk in manifest["disks"]}
    assert digests == {f"{disk['name']}.{disk['format']}": disk["sha256"] for disk in backup.status["disks"]}
    assert sorted(digests) == ["vda.qcow2", "vdb.qcow2"]
    assert tenant.is_home(domain)
    assert tenant.leftovers() == []


@pytest.mark.parametrize("method", ["Push", "Snapshot"])
def test_story_goes_one_way(tenant: Tenant, method: str) -> None:
    tenant.vm(data_bytes=512 * MIB if method == "Push" else 6 * MIB)
    with Story(tenant) as story:
        tenant.back_up(method=method, maxBytesPerSecond="100Mi" if method == "Push" else "1Mi")
    allowed = ON_THE_WAY[method]
    order = [allowed.index(phase) for phase in story.phases]
    assert order == sorted(order), story.phases
    assert {"Pending", "Assigned", "Copying", "Done"} <= set(story.phases)
    assert story.bytes_done == sorted(story.bytes_done)
    if method == "Snapshot":  # QEMU may copy everything before a speed limit bites
        assert len(set(story.bytes_done)) > 2
    for before_the_end in story.seen[:-1]:
        assert_in_progress(before_the_end)
    assert_done_well(story.seen[-1])


def assert_in_progress(backup: Backup) -> None:
    """What kstatus calls InProgress. A resource that nobody has looked at yet has no conditions."""
    truths = {type_: condition["status"] for type_, condition in backup.conditions.items()}
    if not truths:
        assert backup.phase == "Pending"
        return
    assert (truths["Reconciling"], truths["Ready"], truths["Succeeded"]) == ("True", "False", "Unknown")
    assert "Stalled" not in truths
    assert "set" not in backup.status


def assert_done_well(backup: Backup) -> None:
    """What kstatus calls Current."""
    truths = {type_: condition["status"] for type_, condition in backup.conditions.items()}
    assert truths == {"Ready": "True", "Succeeded": "True", "Verified": "True", "Quiesced": "False"}
    assert backup.status["observedGeneration"] == backup.metadata["generation"]
    assert {condition["observedGeneration"] for condition in backup.conditions.values()} == {1}
    assert all(condition["reason"] for condition in backup.conditions.values())
    assert backup.status["progress"]["percent"] == 100


def test_kubectl_wait_and_columns(tenant: Tenant) -> None:
    tenant.vm()
    tenant.back_up(method="Snapshot")
    tenant.kubectl("wait", "vmb/backup", "--for=condition=Succeeded", "--timeout=60s")
    head, line = tenant.kubectl("get", "vmb", "-o", "wide").splitlines()
    assert head.split()[:5] == ["NAME", "VM", "METHOD", "PHASE", "OUTCOME"]
    for word in ("web", "Snapshot", "Done", "Succeeded", "100%", "node-1", tenant.location, "Completed"):
        assert word in line.split(), line


def test_events_tell_the_story_once(tenant: Tenant) -> None:
    tenant.vm()
    uid = tenant.back_up().metadata["uid"]
    tenant.until_succeeded()
    tenant.until_event("Completed")
    told = Counter(event["reason"] for event in tenant.events())
    assert told == {"Assigned": 1, "Started": 1, "Completed": 1}
    events = tenant.events()
    assert {event["regarding"]["uid"] for event in events} == {uid}
    assert {event["type"] for event in events} == {"Normal"}
    assert "backup" in tenant.kubectl("describe", "vmb", "backup")
    assert "is backed up" in tenant.kubectl("describe", "vmb", "backup")


def test_resource_carries_nothing_of_the_machinery(tenant: Tenant) -> None:
    tenant.vm()
    tenant.back_up()
    backup = tenant.until(lambda backup: backup.over and "finalizers" not in backup.metadata)
    annotations = backup.metadata.get("annotations", {})
    assert set(annotations) == {"kubectl.kubernetes.io/last-applied-configuration"}


def test_finished_backup_lets_its_resource_go(tenant: Tenant) -> None:
    tenant.vm()
    tenant.back_up()
    tenant.until_succeeded()
    tenant.kubectl("delete", "vmb", "backup", "--timeout=30s")
    assert len(tenant.sets()) == 1


def test_time_to_live_removes_the_resource_and_leaves_the_set(tenant: Tenant) -> None:
    tenant.vm()
    tenant.back_up(ttlSecondsAfterFinished=1)
    tenant.until_gone()
    assert len(tenant.sets()) == 1
