"""One pass over the cluster: what is written, in which order, and what other writers do not lose."""

from typing import Any

import pytest

from fakes.apiserver import failing
from fakes.objects import T0, vm
from vmbackup.api import names
from vmbackup.api.host import LocationSpace
from vmbackup.cluster.errors import APIServerAway, Denied
from vmbackup.cluster.resources import LOCATION

NOW = T0 + 1
SUCCEEDED = {"node": "n1", "phase": "Done", "outcome": "Succeeded", "completionTime": "2026-09-21T14:13:20Z"}


@pytest.fixture
def web(stage: Any) -> Any:
    """A location and a node with the VM `web`."""
    stage.location()
    stage.host("n1", vm("web", 1), vm("db", 2), vm("mail", 3))
    stage.reconciler.reconcile(NOW)
    stage.server.calls.clear()
    return stage


def test_the_finalizer_is_there_before_the_node_is(web: Any) -> None:
    web.backup("b1")
    web.reconciler.reconcile(NOW)
    path = web.path("b1")
    assert web.server.writes() == [f"PATCH {path}", f"PATCH {path}/status"]
    body = web.read("b1")
    assert body["metadata"]["finalizers"] == [names.FINALIZER]
    assert (body["status"]["node"], body["status"]["phase"]) == ("n1", "Assigned")
    assert [one.reason for one in web.happenings.seen] == ["Assigned"]


def test_a_second_pass_on_the_same_state_writes_nothing(web: Any) -> None:
    for name in ("b1", "b2"):
        web.backup(name)
    web.backup("b3", vm="nosuch")
    web.reconciler.reconcile(NOW)
    web.server.calls.clear()
    web.reconciler.reconcile(NOW + 5)
    assert web.server.writes() == []


def test_our_own_writes_count_before_the_watch_tells_them(web: Any) -> None:
    """Else a quick second pass would bind more than the node may run."""
    web.backup("b1")
    web.reconciler.reconcile(NOW)
    web.backup("b2")
    web.reconciler.reconcile(NOW)
    assert web.reason("b2") == "Queued"


def test_a_cancellation_that_came_first_is_not_lost(web: Any) -> None:
    web.backup("b1")
    web.server.change(web.path("b1"), spec={"cancel": True})
    web.reconciler.reconcile(NOW)
    assert "node" not in web.read("b1")["status"]
    web.reconciler.reconcile(NOW)
    assert web.read("b1")["status"]["outcome"] == "Cancelled"


def test_a_crash_between_finalizer_and_binding_is_healed(web: Any) -> None:
    web.backup("b1")
    status = f"{web.path('b1')}/status"

    def crash(_method: str, path: str) -> None:
        if path == status:
            raise APIServerAway("gone")

    web.server.trouble = crash
    with pytest.raises(APIServerAway):
        web.reconciler.reconcile(NOW)
    web.server.trouble = failing(0)
    web.reconciler.reconcile(NOW)
    assert web.read("b1")["status"]["node"] == "n1"
    assert web.read("b1")["metadata"]["finalizers"] == [names.FINALIZER]


def test_an_unbound_backup_that_is_deleted_goes_at_once(web: Any) -> None:
    web.backup("b1", metadata={"deletionTimestamp": "2026-09-21T14:13:30Z", "finalizers": [names.FINALIZER]})
    web.reconciler.reconcile(NOW)
    assert web.path("b1") not in web.server.objects


def test_a_bound_backup_that_is_deleted_stays_until_its_agent_is_done(web: Any) -> None:
    deleted = {"deletionTimestamp": "2026-09-21T14:13:30Z", "finalizers": [names.FINALIZER]}
    web.backup("b1", metadata=deleted, status={"node": "n1", "phase": "Copying"})
    web.reconciler.reconcile(NOW)
    assert web.server.writes() == []
    web.server.change(web.path("b1"), status={"phase": "Done", "outcome": "Cancelled"})
    web.hear()
    web.reconciler.reconcile(NOW)
    assert web.path("b1") not in web.server.objects


def test_a_finished_backup_is_let_go_and_removed_when_its_time_is_over(web: Any) -> None:
    web.backup("b1", spec={"ttlSecondsAfterFinished": 60}, status=SUCCEEDED, metadata={"finalizers": [names.FINALIZER]})
    web.reconciler.reconcile(NOW)
    assert web.read("b1")["metadata"]["finalizers"] == []
    web.reconciler.reconcile(T0 + 59)
    assert web.path("b1") in web.server.objects
    web.reconciler.reconcile(T0 + 60)
    assert web.path("b1") not in web.server.objects


def test_without_a_ttl_the_resource_stays(web: Any) -> None:
    web.backup("b1", status=SUCCEEDED)
    web.reconciler.reconcile(T0 + 10**9)
    assert web.path("b1") in web.server.objects


def test_a_cancellation_that_comes_too_late_is_seen_and_changes_nothing_else(web: Any) -> None:
    """kstatus takes a resource whose generation nobody has seen for work in progress, for ever."""
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "Completed",
        "message": "done",
        "lastTransitionTime": "2026-09-21T14:13:20Z",
        "observedGeneration": 1,
    }
    web.backup("b1", status={**SUCCEEDED, "observedGeneration": 1, "conditions": [ready], "set": "team-a/web/x"})
    web.reconciler.reconcile(NOW)
    assert web.server.writes() == []
    web.server.change(web.path("b1"), spec={"cancel": True}, metadata={"generation": 2})
    web.hear()
    web.reconciler.reconcile(NOW)
    web.reconciler.reconcile(NOW + 1)
    assert web.server.writes() == [f"PATCH {web.path('b1')}/status"]
    status = web.read("b1")["status"]
    assert status.pop("observedGeneration") == 2
    assert status.pop("conditions") == [{**ready, "observedGeneration": 2}]
    assert status.items() >= {**SUCCEEDED, "set": "team-a/web/x"}.items()


def test_a_new_backup_of_the_same_name_is_not_told_about_the_old_ones_cancellation(web: Any) -> None:
    web.backup("b1", status={**SUCCEEDED, "observedGeneration": 1}, metadata={"generation": 2})
    web.server.put(web.path("b1"), {**web.read("b1"), "metadata": {**web.read("b1")["metadata"], "uid": "new"}})
    web.reconciler.reconcile(NOW)
    assert web.server.writes() == []


def test_a_new_backup_of_the_same_name_does_not_expire_for_the_old_one(web: Any) -> None:
    web.backup("b1", spec={"ttlSecondsAfterFinished": 1}, status=SUCCEEDED)
    web.server.put(web.path("b1"), {**web.read("b1"), "metadata": {**web.read("b1")["metadata"], "uid": "new"}})
    web.reconciler.reconcile(T0 + 100)
    assert web.read("b1")["metadata"]["uid"] == "new"


def test_a_lost_node_is_told_once_and_nothing_else_is_touched(web: Any) -> None:
    web.backup("b1", status={"node": "n1", "phase": "Copying"})
    web.live.clear()
    web.reconciler.reconcile(NOW)
    web.reconciler.reconcile(NOW + 5)
    assert web.reason("b1") == "NodeLost"
    assert (web.read("b1")["status"]["node"], web.read("b1")["status"]["phase"]) == ("n1", "Copying")
    assert [one.type for one in web.happenings.seen if one.reason == "NodeLost"] == ["Warning"]


def test_what_the_agent_tells_survives_the_word_of_a_lost_node(web: Any) -> None:
    told = {"node": "n1", "phase": "Copying", "disks": [{"name": "vda", "state": "Copying"}], "tapeOfTomorrow": "x"}
    web.backup("b1", status=told)
    web.live.clear()
    web.reconciler.reconcile(NOW)
    status = web.read("b1")["status"]
    assert status["tapeOfTomorrow"] == "x"
    assert status["disks"][0]["state"] == "Copying"


def test_one_forbidden_object_does_not_hold_up_the_others(web: Any) -> None:
    web.backup("b1", vm="db")
    web.backup("b2")

    def forbid(method: str, path: str) -> None:
        if method == "PATCH" and "/b1" in path:
            raise Denied("403 forbidden")

    web.server.trouble = forbid
    web.reconciler.reconcile(NOW)
    assert web.read("b2")["status"]["node"] == "n1"
    web.server.calls.clear()
    web.reconciler.reconcile(NOW)
    assert web.server.calls == [], "what was forbidden is not tried again at once"


def test_a_vanished_object_is_forgotten(web: Any) -> None:
    web.backup("b1")
    web.server.remove(web.path("b1"))
    web.reconciler.reconcile(NOW)
    web.server.calls.clear()
    web.reconciler.reconcile(NOW)
    assert web.server.calls == []


def test_a_queue_moves_up_when_one_ends(web: Any) -> None:
    for second, name in enumerate(("web", "db", "mail"), 10):
        web.backup(f"of-{name}", vm=name, metadata={"creationTimestamp": f"2026-09-21T14:13:{second}Z"})
    web.reconciler.reconcile(NOW)
    assert web.reason("of-mail") == "Queued"
    web.server.change(web.path("of-web"), status={"phase": "Done", "outcome": "Succeeded"})
    web.hear()
    web.reconciler.reconcile(NOW + 2)
    assert web.read("of-mail")["status"]["node"] == "n1"


def test_a_location_tells_what_the_nodes_see(stage: Any) -> None:
    stage.location()
    stage.reconciler.reconcile(NOW)
    assert stage.happenings.seen == [], "that no agent has looked yet is nothing to warn of"
    space = LocationSpace(node="n1", location="nightly", ready=True, free_bytes=5, total_bytes=10)
    stage.host("n1", locations=(space,))
    stage.reconciler.reconcile(NOW + 1)
    status = stage.server.objects[LOCATION.path("nightly")]["status"]
    assert status["conditions"][0]["status"] == "True"
    assert status["nodes"][0]["freeBytes"] == 5
    stage.host("n1", locations=(space.model_copy(update={"free_bytes": 6}),))
    stage.server.calls.clear()
    stage.reconciler.reconcile(NOW + 2)
    assert stage.server.writes() == []
    stage.reconciler.reconcile(NOW + 40)
    assert stage.server.objects[LOCATION.path("nightly")]["status"]["nodes"][0]["freeBytes"] == 6


def test_a_fault_with_one_object_does_not_stop_the_others(web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    web.backup("b1", vm="db")
    web.backup("b2")

    def fault(method: str, path: str) -> None:
        if "/b1" in path:
            raise RuntimeError("a fault of ours")

    web.server.trouble = fault
    web.reconciler.reconcile(NOW)
    assert web.read("b2")["status"]["node"] == "n1"


def test_a_word_that_somebody_else_has_overwritten_is_told_again(web: Any) -> None:
    web.backup("b1", status={"node": "n1", "phase": "Copying"})
    web.live.clear()
    for second in range(3):
        web.reconciler.reconcile(NOW + second)
    web.server.change(web.path("b1"), status={"conditions": [], "progress": {"percent": 50}})
    web.hear()
    web.reconciler.reconcile(NOW + 9)
    assert web.reason("b1") == "NodeLost"
