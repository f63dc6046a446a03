"""A status is a report: whoever can write it gains nothing by it."""

from integration.system.programs import Node
from integration.system.tenant import Tenant
from integration.system.test_unknown_vm import assert_refused


def test_forged_set_and_progress_change_nothing(tenant: Tenant) -> None:
    domain = tenant.begin_slow("Snapshot", 4)
    evil = tenant.directory / "evil"
    tenant.forge(
        set="../../evil",
        attempt=7,
        method={"used": "Push", "reason": "forged"},
        disks=[{"name": "vda", "state": "Verified", "format": "../../evil"}],
        executor={"node": "node-9", "session": "forged"},
    )
    backup = tenant.until_succeeded()
    assert backup.status["method"]["used"] == "Snapshot"
    assert backup.status["attempt"] == 1
    assert [tenant.directory / backup.status["set"]] == tenant.sets()
    assert backup.status["executor"]["node"] == "node-1"
    assert not evil.exists()
    assert tenant.is_home(domain)


def test_forged_end_does_not_stop_the_way_home(tenant: Tenant) -> None:
    domain = tenant.begin_slow("Snapshot", 4)
    tenant.forge(phase="Done", outcome="Succeeded", set="somewhere/else")
    backup = tenant.until(lambda backup: backup.over and backup.status.get("set") != "somewhere/else")
    assert [tenant.directory / backup.status["set"]] == tenant.sets()
    assert tenant.is_home(domain)


def test_forged_node_reaches_no_vm_of_another_namespace(tenant: Tenant, stranger: Tenant) -> None:
    stranger.vm("secret")
    stranger.until_hosted("secret")
    tenant.back_up(vm="secret")
    tenant.forge(node="node-1", phase="Assigned")
    assert_refused(tenant.until_over(), "VMNotFound")
    assert tenant.sets() == []


def test_forged_node_reaches_no_location_that_is_not_allowed(tenant: Tenant, stranger: Tenant) -> None:
    """The controller is passed by: the agent asks again."""
    tenant.vm()
    tenant.until_hosted("web")
    tenant.stage.controller.kill()
    tenant.back_up(location=stranger.location)
    tenant.forge(node="node-1", phase="Assigned")
    backup = tenant.until_over()
    assert (backup.outcome, backup.reason) == ("Refused", "LocationNotAllowed")
    assert stranger.sets() == []


def test_forged_node_in_mid_copy(tenant: Tenant, second_node: Node) -> None:
    """The backup seems to leave its node: it is brought home there, and the other node has no such VM."""
    domain = tenant.begin_slow("Snapshot", 4)
    tenant.forge(node=second_node.name)
    tenant.until_over()
    tenant.until_home(domain)
    assert tenant.overlays() == []
