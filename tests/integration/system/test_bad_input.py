"""Disks and locations that cannot be: each as the user sees it in the resource."""

from pathlib import Path

import pytest

from integration.system.tenant import Tenant
from integration.system.test_unknown_vm import assert_refused
from testbed.errors import TestbedError


def test_unknown_disk(tenant: Tenant) -> None:
    tenant.vm()
    tenant.back_up(disks={"include": ["vda", "vdz"]})
    backup = tenant.until_over()
    assert_refused(backup, "DiskNotFound")
    assert "vdz" in backup.message
    assert "vda" in backup.message


def test_no_disk_left(tenant: Tenant) -> None:
    tenant.vm()
    tenant.back_up(disks={"exclude": ["vda"]})
    backup = tenant.until_over()
    assert_refused(backup, "NoDisks")
    assert "vda: excluded" in backup.message


def test_unknown_location_is_waited_for_then_refused(tenant: Tenant) -> None:
    tenant.vm()
    tenant.back_up(location="nowhere")
    waiting = tenant.until(lambda backup: backup.reason == "LocationNotFound" and not backup.over)
    assert "nowhere" in waiting.message
    assert_refused(tenant.until_over(), "LocationNotFound")


def test_location_that_does_not_allow_the_namespace(tenant: Tenant, stranger: Tenant) -> None:
    tenant.vm()
    tenant.back_up(location=stranger.location)
    backup = tenant.until_over()
    assert_refused(backup, "LocationNotAllowed")
    assert stranger.location in backup.message
    assert stranger.sets() == []


def test_location_that_allows_by_label(tenant: Tenant) -> None:
    tenant.vm()
    tenant.kubectl("label", "namespace", tenant.namespace, "backups=yes")
    name, path = f"{tenant.location}-by-label", tenant.directory / "by-label"
    path.mkdir()
    tenant.make_location(name, path, allowedNamespaces={"matchLabels": {"backups": "yes"}})
    tenant.back_up(location=name)
    tenant.until_succeeded()


@pytest.mark.parametrize("trouble", ["a file", "a link", "a link on the way", "read-only"])
def test_location_path_that_cannot_be_used(tenant: Tenant, trouble: str) -> None:
    domain = tenant.vm()
    path = unusable_path(tenant, trouble)
    name = tenant.make_location(f"{tenant.location}-bad", path)
    tenant.back_up(location=name)
    backup = tenant.until_over()
    assert_refused_on_the_node(tenant, domain)
    assert backup.reason == "LocationUnusable"
    named = path.parent if trouble == "a link on the way" else path
    assert str(named) in backup.message
    assert str(named) in tenant.until_location(name, "False")["message"]
    assert not any((tenant.directory / "elsewhere").iterdir())


def test_location_path_that_is_missing_is_waited_for(tenant: Tenant) -> None:
    """It may be a file system that is not mounted yet."""
    tenant.vm()
    path = tenant.directory / "late"
    name = tenant.make_location(f"{tenant.location}-late", path)
    tenant.back_up(location=name)
    waiting = tenant.until(lambda backup: str(path) in backup.message)
    assert waiting.reason == "LocationNotReady"
    path.mkdir()
    tenant.until_succeeded()


def unusable_path(tenant: Tenant, trouble: str) -> Path:
    path, elsewhere = tenant.directory / "bad", tenant.directory / "elsewhere"
    elsewhere.mkdir()
    match trouble:
        case "a file":
            path.write_text("")
        case "a link":
            path.symlink_to(elsewhere)
        case "a link on the way":
            path.symlink_to(elsewhere)
            return path / "below"
        case "read-only":
            return tenant.stage.nodes["node-1"].read_only
    return path


def assert_refused_on_the_node(tenant: Tenant, domain: str) -> None:
    backup = tenant.get()
    assert (backup.phase, backup.outcome) == ("Done", "Refused"), backup.body
    assert backup.conditions["Stalled"]["status"] == "True"
    assert "set" not in backup.status
    assert tenant.is_home(domain)
    assert tenant.leftovers() == []


@pytest.mark.parametrize("method", ["Push", "Snapshot"])
def test_too_little_space_is_refused_before_anything_is_touched(tenant: Tenant, method: str) -> None:
    domain = tenant.vm()
    name = tenant.make_location(f"{tenant.location}-full", tenant.directory / "full", minFree="900Ti")
    (tenant.directory / "full").mkdir()
    tenant.back_up(location=name, method=method)
    backup = tenant.until_over()
    assert_refused_on_the_node(tenant, domain)
    assert backup.reason == "NotEnoughSpace"
    assert "900.0 TiB" in backup.message
    assert list((tenant.directory / "full").iterdir()) == []


def test_spec_changed_after_creation(tenant: Tenant) -> None:
    tenant.vm()
    tenant.back_up()
    with pytest.raises(TestbedError, match="cannot be changed once the VMBackup exists"):
        tenant.back_up(method="Snapshot")
    assert tenant.until_succeeded().spec["method"] == "Auto"


def test_location_deleted_before_its_backup_begins(tenant: Tenant) -> None:
    tenant.vm()
    agent = tenant.stage.nodes["node-1"].agent
    tenant.until_hosted("web")
    agent.kill()
    tenant.back_up()
    tenant.until(lambda backup: backup.phase == "Assigned")
    tenant.kubectl("delete", "vmbl", tenant.location)
    agent.start()
    assert_refused(tenant.until_over(), "LocationNotFound")
