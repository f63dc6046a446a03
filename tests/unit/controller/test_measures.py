"""What a scrape of the controller shows: each end once, and the rest as it is now, after a restart as well."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from fakes.apiserver import failing
from fakes.objects import T0, vm
from vmbackup.api import names
from vmbackup.cluster.errors import APIServerAway, Conflict
from vmbackup.cluster.heartbeat import RENEW_SECONDS
from vmbackup.cluster.lease import Election, lease_body, micro_time
from vmbackup.cluster.resources import LEASE, NAMESPACE, VMBACKUP, VMHOST, VMI
from vmbackup.controller import measures as module
from vmbackup.controller.measures import Measures
from vmbackup.controller.survey import Survey
from vmbackup.core.kstatus import epoch
from vmbackup.door import health as health_module
from vmbackup.door.health import Health

NOW = T0 + 60
DONE: dict[str, Any] = {
    "node": "n1",
    "phase": "Done",
    "outcome": "Succeeded",
    "method": {"used": "Push", "reason": "it works"},
    "startTime": "2026-09-21T14:13:20Z",
    "completionTime": "2026-09-21T14:13:50Z",
    "storedBytes": 4096,
}
FAILED = DONE | {"outcome": "Failed", "storedBytes": 0}
HELD = {"finalizers": [names.FINALIZER]}


class Scraped:
    """One replica's view. `text()` is what Prometheus would read."""

    def __init__(self, stage: Any) -> None:
        self.stage = stage
        self.health = Health()
        self.election = SimpleNamespace(leading=True)
        self.survey = Survey(stage.resources, stage.cache, "system", self.health, lambda: None)
        self.measures.look_at(self.survey, cast(Election, self.election), self.health)

    @property
    def measures(self) -> Measures:
        return cast(Measures, self.stage.measures)

    def text(self) -> str:
        return self.measures.metrics.page().body.decode()

    def samples(self, name: str) -> dict[str, float]:
        """Return the samples of a metric by their labels, as they are written."""
        rows = [line.rpartition(" ") for line in self.text().splitlines() if line.startswith((f"{name}{{", f"{name} "))]
        return {series.removeprefix(name): float(value) for series, _, value in rows}

    def counted(self) -> dict[str, float]:
        """Return the counts of ended backups that are not 0."""
        return {labels: value for labels, value in self.samples("vmbackup_backups_total").items() if value}


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.time, "time", lambda: NOW)


@pytest.fixture
def scraped(stage: Any) -> Scraped:
    stage.location()
    stage.host("n1", vm("web", 1), vm("db", 2))
    put_namespace(stage, "team-a")
    return Scraped(stage)


def put_namespace(stage: Any, name: str) -> None:
    stage._put(NAMESPACE, name, "", {"metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": "1"}})


# -- ends are counted once ------------------------------------------------------------------------------------------


def test_end_is_counted_once_however_often_it_is_heard_of(scraped: Scraped) -> None:
    scraped.stage.backup("b1", status=DONE, metadata=HELD)
    for _ in range(3):
        scraped.stage.reconciler.reconcile(NOW)
        scraped.stage.hear()
    assert scraped.counted() == {'{method="Push",namespace="team-a",result="Succeeded"}': 1}
    assert scraped.samples("vmbackup_backup_bytes_total") == {'{method="Push",namespace="team-a"}': 4096}
    assert scraped.samples("vmbackup_backup_duration_seconds_sum") == {'{method="Push",result="Succeeded"}': 30}
    assert 'vmbackup_backup_duration_seconds_bucket{le="15.0",method="Push",result="Succeeded"} 0.0' in scraped.text()
    assert 'vmbackup_backup_duration_seconds_bucket{le="30.0",method="Push",result="Succeeded"} 1.0' in scraped.text()


def test_restarted_controller_does_not_count_again_what_was_counted(scraped: Scraped) -> None:
    scraped.stage.backup("counted", status=DONE)  # no finalizer of ours: let go by the controller before
    scraped.stage.backup("not-counted", status=FAILED, metadata=HELD)
    scraped.stage.reconciler.reconcile(NOW)
    assert scraped.counted() == {'{method="Push",namespace="team-a",result="Failed"}': 1}


def test_end_that_could_not_be_written_is_counted_when_it_is(scraped: Scraped) -> None:
    stage = scraped.stage
    stage.backup("b1", status=DONE, metadata=HELD)
    stage.server.trouble = failing(1, Conflict("somebody was faster"), "PATCH")
    stage.reconciler.reconcile(NOW)
    assert scraped.counted() == {}
    stage.server.trouble = failing(1, APIServerAway("away"), "PATCH")
    with pytest.raises(APIServerAway):
        stage.reconciler.reconcile(NOW)
    assert scraped.counted() == {}
    stage.reconciler.reconcile(NOW)
    assert sum(scraped.counted().values()) == 1


def test_refusal_is_counted_though_nothing_began(scraped: Scraped) -> None:
    scraped.stage.backup("b1", spec={"cancel": True})
    for _ in range(2):
        scraped.stage.reconciler.reconcile(NOW)
        scraped.stage.hear()
    assert scraped.counted() == {'{method="None",namespace="team-a",result="Cancelled"}': 1}
    assert scraped.samples("vmbackup_backup_duration_seconds_count") == {}


def test_refusal_after_a_binding_that_was_cut_short_is_counted_once(scraped: Scraped) -> None:
    """The finalizer is there already, the node is not: what counts is that the finalizer goes."""
    scraped.stage.backup("b1", spec={"cancel": True}, metadata=HELD)
    for _ in range(3):
        scraped.stage.reconciler.reconcile(NOW)
        scraped.stage.hear()
    assert scraped.counted() == {'{method="None",namespace="team-a",result="Cancelled"}': 1}


def test_backup_that_was_let_go_meanwhile_is_not_counted(scraped: Scraped) -> None:
    scraped.stage.backup("b1", status=DONE, metadata=HELD)
    (finished,) = scraped.stage.cache.finished()
    scraped.stage.server.change(scraped.stage.path("b1"), metadata={"finalizers": []})
    scraped.stage.hear()
    scraped.stage.reconciler._tidy(finished, NOW)
    assert scraped.counted() == {}


def test_backup_whose_agent_never_came_back_is_counted_as_abandoned(scraped: Scraped) -> None:
    deleted = {"deletionTimestamp": "2026-09-21T10:00:00Z"}
    scraped.stage.live.clear()
    scraped.stage.backup("b1", status={"node": "n1", "phase": "Copying"}, metadata=HELD | deleted)
    scraped.stage.reconciler.reconcile(NOW)
    assert scraped.counted() == {'{method="None",namespace="team-a",result="Abandoned"}': 1}


def test_first_failure_of_a_namespace_is_a_step_from_zero(scraped: Scraped) -> None:
    """An alert on an increase sees no step in a series that begins with 1."""
    scraped.stage.backup("b1")
    scraped.stage.reconciler.reconcile(NOW)
    before = scraped.samples("vmbackup_backups_total")
    assert before['{method="Push",namespace="team-a",result="Failed"}'] == 0
    assert set(before.values()) == {0}


def test_counts_of_a_deleted_namespace_vanish(scraped: Scraped) -> None:
    scraped.stage.backup("b1", status=DONE, metadata=HELD)
    put_namespace(scraped.stage, "team-b")
    scraped.stage.backup("b2", "team-b", status=DONE, metadata=HELD)
    scraped.stage.reconciler.reconcile(NOW)
    assert len(scraped.counted()) == 2
    scraped.stage.cache.drop(NAMESPACE, "uid-team-b")
    assert list(scraped.counted()) == ['{method="Push",namespace="team-a",result="Succeeded"}']
    assert list(scraped.samples("vmbackup_backup_bytes_total")) == ['{method="Push",namespace="team-a"}']


# -- what is shown as it is now -------------------------------------------------------------------------------------


def test_last_success_is_the_newest_of_a_vm_and_no_failure(scraped: Scraped) -> None:
    later = "2026-09-21T15:00:00Z"
    scraped.stage.backup("old", status=DONE)
    scraped.stage.backup("new", status=DONE | {"completionTime": later})
    scraped.stage.backup("newest-failed", status=FAILED | {"completionTime": "2026-09-21T16:00:00Z"})
    scraped.stage.backup("running", status={"node": "n1", "phase": "Copying"})
    assert scraped.samples("vmbackup_last_success_timestamp_seconds") == {'{namespace="team-a",vm="web"}': epoch(later)}


def test_last_success_of_a_deleted_vm_vanishes(scraped: Scraped) -> None:
    scraped.stage.backup("b1", status=DONE)
    scraped.stage.backup("b2", vm="db", status=DONE)
    assert len(scraped.samples("vmbackup_last_success_timestamp_seconds")) == 2
    scraped.stage.server.remove(VMHOST.path("n1"))
    scraped.stage.host("n1", vm("web", 1))
    assert list(scraped.samples("vmbackup_last_success_timestamp_seconds")) == ['{namespace="team-a",vm="web"}']


def test_last_success_of_a_vm_of_kubevirt_is_there_while_its_instance_is(scraped: Scraped) -> None:
    kind = {"kind": "VirtualMachineInstance", "name": "web"}
    scraped.stage.backup("b1", spec={"source": kind}, status=DONE)
    assert scraped.samples("vmbackup_last_success_timestamp_seconds") == {}, "a domain of the same name is another VM"
    metadata = {"name": "web", "namespace": "team-a", "uid": "uid-vmi", "resourceVersion": "1"}
    scraped.stage.cache.put(VMI, {"metadata": metadata, "status": {"phase": "Running", "nodeName": "n1"}})
    assert list(scraped.samples("vmbackup_last_success_timestamp_seconds")) == ['{namespace="team-a",vm="web"}']
    scraped.stage.cache.drop(VMI, "uid-vmi")
    assert scraped.samples("vmbackup_last_success_timestamp_seconds") == {}


def test_last_success_goes_with_its_backups(scraped: Scraped) -> None:
    scraped.stage.backup("b1", status=DONE)
    scraped.stage.cache.drop(VMBACKUP, "uid-team-a-b1")
    assert scraped.samples("vmbackup_last_success_timestamp_seconds") == {}


def test_queue_shows_those_that_wait_and_not_those_that_run(scraped: Scraped) -> None:
    assert scraped.samples("vmbackup_queue_oldest_seconds") == {"": 0}
    scraped.stage.backup("runs", status={"node": "n1", "phase": "Copying"})
    scraped.stage.backup("over", status=DONE)
    scraped.stage.backup("waits")
    scraped.stage.backup("waits-less", metadata={"creationTimestamp": "2026-09-21T14:14:00Z"})
    assert scraped.samples("vmbackup_queue_depth") == {"": 2}
    assert scraped.samples("vmbackup_queue_oldest_seconds") == {"": 60}


def test_age_of_a_watch_grows_until_something_is_known_of_it(scraped: Scraped, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [1000.0]
    monkeypatch.setattr(health_module.time, "monotonic", lambda: seconds[0])
    assert scraped.samples("vmbackup_watch_age_seconds") == {}
    scraped.survey.compare()
    seconds[0] += 20
    scraped.health.watch_speaks("VMBackup")
    seconds[0] += 3
    ages = scraped.samples("vmbackup_watch_age_seconds")
    assert ages['{resource="vmbackups"}'] == 3
    assert ages['{resource="vmhosts"}'] == 23


def test_watch_that_misses_something_is_not_made_young_by_the_comparison(
    scraped: Scraped, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = [1000.0]
    monkeypatch.setattr(health_module.time, "monotonic", lambda: seconds[0])
    scraped.stage.backup("b1")
    scraped.stage.server.change(scraped.stage.path("b1"), spec={"cancel": True})
    scraped.survey.compare()
    seconds[0] += 60
    scraped.survey.compare()
    assert scraped.samples("vmbackup_watch_age_seconds")['{resource="vmbackups"}'] == 60


def test_heartbeat_of_an_agent_is_told_by_our_clock(scraped: Scraped) -> None:
    name = f"{names.LEASE_AGENT_PREFIX}n1"
    lease = lease_body(name, "system", {"renewTime": micro_time(NOW - RENEW_SECONDS), "leaseDurationSeconds": 90})
    scraped.stage.server.put(LEASE.path(name, "system"), lease)
    scraped.survey._look_at_leases()
    heard = scraped.samples("vmbackup_agent_heartbeat_timestamp_seconds")
    assert list(heard) == ['{node="n1"}']
    assert heard['{node="n1"}'] <= NOW


@pytest.mark.parametrize("leading", [True, False])
def test_scrape_tells_who_leads(scraped: Scraped, leading: bool) -> None:
    scraped.election.leading = leading
    assert scraped.samples("vmbackup_leader") == {"": leading}


def test_no_label_carries_the_name_of_a_backup(scraped: Scraped) -> None:
    for number in range(20):
        scraped.stage.backup(f"b{number}", status=DONE, metadata=HELD)
    scraped.stage.reconciler.reconcile(NOW)
    before = len(scraped.text().splitlines())
    for number in range(20, 40):
        scraped.stage.backup(f"b{number}", status=DONE, metadata=HELD)
    scraped.stage.reconciler.reconcile(NOW)
    assert sum(scraped.counted().values()) == 40
    assert len(scraped.text().splitlines()) == before
