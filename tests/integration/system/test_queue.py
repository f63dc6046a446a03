"""Whose turn it is, as the users see it."""

from integration.system.machines import MIB
from integration.system.tenant import Tenant

SLOW = {"method": "Snapshot", "maxBytesPerSecond": "1Mi"}


def test_second_backup_of_a_vm_waits_for_the_first(tenant: Tenant) -> None:
    tenant.vm(data_bytes=4 * MIB)
    tenant.back_up("first", **SLOW)
    tenant.until(lambda backup: backup.phase == "Copying", "first")
    tenant.back_up("second")
    waiting = tenant.until(lambda backup: backup.reason == "Queued", "second")
    assert "first" in waiting.message
    assert "node" not in waiting.status
    tenant.until_succeeded("first")
    tenant.until_succeeded("second")
    assert len(tenant.sets()) == 2


def test_third_backup_of_a_node_waits_with_its_place_in_the_queue(tenant: Tenant) -> None:
    for name in ("a", "b", "c", "d"):
        tenant.vm(name, data_bytes=6 * MIB)
        tenant.until_hosted(name)
    for name in ("a", "b"):
        tenant.back_up(name, vm=name, **SLOW)
        tenant.until(lambda backup: backup.phase == "Copying", name)
    tenant.back_up("c", vm="c")
    third = tenant.until(lambda backup: backup.reason == "Queued", "c")
    assert third.message == "Waiting for 2 older backups on node node-1, 2 at a time."
    tenant.back_up("d", vm="d")
    fourth = tenant.until(lambda backup: backup.reason == "Queued", "d")
    assert fourth.message == "Waiting for 3 older backups on node node-1, 2 at a time."
    for name in ("a", "b", "c", "d"):
        tenant.until_succeeded(name)


def test_location_takes_no_more_than_it_says(tenant: Tenant) -> None:
    path = tenant.directory / "narrow"
    path.mkdir()
    narrow = tenant.make_location(f"{tenant.location}-narrow", path, maxConcurrent=1)
    for name in ("one", "two"):
        tenant.vm(name, data_bytes=4 * MIB)
        tenant.until_hosted(name)
    tenant.back_up("one", vm="one", location=narrow, **SLOW)
    tenant.until(lambda backup: backup.phase == "Copying", "one")
    tenant.back_up("two", vm="two", location=narrow)
    waiting = tenant.until(lambda backup: backup.reason == "Queued", "two")
    assert narrow in waiting.message
    tenant.until_succeeded("two")


def test_cancelled_in_the_queue(tenant: Tenant) -> None:
    tenant.vm(data_bytes=20 * MIB)
    tenant.back_up("first", **SLOW)
    tenant.until(lambda backup: backup.phase == "Copying", "first")
    tenant.back_up("second")
    tenant.until(lambda backup: backup.reason == "Queued", "second")
    tenant.cancel("second")
    assert tenant.until_over("second").outcome == "Cancelled"
    tenant.cancel("first")
    assert tenant.until_over("first").outcome == "Cancelled"
    assert tenant.sets() == []
