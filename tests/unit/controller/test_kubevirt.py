"""KubeVirt may not be installed, may come, and may go again."""

import logging
from typing import Any

import pytest

from fakes.apiserver import failing
from fakes.objects import T0, vm
from vmbackup.cluster.errors import Denied, NotFound
from vmbackup.cluster.resources import VMI
from vmbackup.controller import survey as module
from vmbackup.controller.survey import Survey
from vmbackup.door.health import Health

PATH = VMI.path("web", "team-a")


@pytest.fixture
def survey(stage: Any, monkeypatch: pytest.MonkeyPatch) -> Survey:
    monkeypatch.setattr(module, "KUBEVIRT_SECONDS", 0.0)
    return Survey(stage.resources, stage.cache, "system", Health(), lambda: None)


def show(stage: Any, **status: Any) -> None:
    metadata = {"name": "web", "namespace": "team-a", "uid": "vmi-1"}
    body = {"metadata": metadata, "spec": {"domain": {"large": "x" * 1000}}, "status": {"phase": "Running", **status}}
    stage.server.put(PATH, body)


def test_cluster_without_kubevirt_is_said_once_and_is_no_fault(
    stage: Any, survey: Survey, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    stage.server.trouble = failing(2, NotFound("GET virtualmachineinstances: 404"))
    assert not survey.has_kubevirt()
    assert not survey.has_kubevirt()
    assert [record.levelname for record in caplog.records if "404" in record.message] == ["INFO"]


def test_kubevirt_that_comes_is_known_with_all_its_vms(stage: Any, survey: Survey) -> None:
    show(stage, nodeName="n1")
    assert survey.has_kubevirt()
    assert stage.cache.vmis()["team-a", "web"].status.node_name == "n1"


def test_only_what_decisions_need_is_kept_of_a_vmi(stage: Any, survey: Survey) -> None:
    show(stage)
    survey.has_kubevirt()
    entry = stage.cache.entry(VMI, "vmi-1")
    assert set(entry.body) == {"metadata"}


def test_change_that_no_decision_depends_on_wakes_nobody(stage: Any, survey: Survey) -> None:
    show(stage)
    survey.has_kubevirt()
    before = stage.wakes
    show(stage, interfaces=[{"ipAddress": "10.0.0.1"}], guestOSInfo={"name": "Debian"})
    stage.cache.put(VMI, stage.server.objects[PATH])
    assert stage.wakes == before
    show(stage, nodeName="n2")
    stage.cache.put(VMI, stage.server.objects[PATH])
    assert stage.wakes == before + 1


def test_kubevirt_that_goes_takes_its_vms_along(stage: Any, survey: Survey) -> None:
    show(stage)
    survey.has_kubevirt()
    stage.server.trouble = failing(1, NotFound("404"))
    assert not survey.has_kubevirt()
    assert stage.cache.vmis() == {}


def test_rights_that_are_missing_for_kubevirt_alone_are_a_warning(
    stage: Any, survey: Survey, caplog: pytest.LogCaptureFixture
) -> None:
    stage.server.trouble = failing(1, Denied("virtualmachineinstances is forbidden"))
    assert not survey.has_kubevirt()
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_deletion_that_no_watch_told_is_found(stage: Any, survey: Survey) -> None:
    show(stage)
    survey.has_kubevirt()
    stage.server.remove(PATH)
    survey.compare()
    assert stage.cache.vmis() == {}


def test_schedule_of_all_vms_of_kubevirt_means_those_and_no_domain(stage: Any, survey: Survey) -> None:
    stage.location()
    stage.host("n1", vm("domain", 1))
    show(stage, nodeName="n1")
    survey.has_kubevirt()
    stage.schedule(vms={"kind": "VirtualMachineInstance", "match": ["*"]}, trigger="now")
    stage.schedules.reconcile(T0)
    made = [body for path, body in stage.server.objects.items() if "/vmbackups/" in path]
    assert [body["spec"]["source"] for body in made] == [{"kind": "VirtualMachineInstance", "name": "web"}]
