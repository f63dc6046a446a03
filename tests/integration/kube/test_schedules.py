"""Schedules on a real API server: rules, columns, and controllers as processes of their own. Agents are played."""

import json
import re
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fakes.waiting import eventually
from integration.kube.processes import ControllerProcess, Node, controller, grant, vm
from testbed.controlplane import ControlPlane
from vmbackup.api import names
from vmbackup.api.schedule import VMBackupSchedule, VMBackupScheduleSpec
from vmbackup.cluster.client import Client
from vmbackup.cluster.errors import Denied, NotFound
from vmbackup.cluster.resources import LOCATION, SCHEDULE, VMBACKUP
from vmbackup.core.turns import Limits

PATIENCE_SECONDS = 40.0
MINIMAL = {
    "schedule": "30 2 * * *",
    "vms": {"names": ["web"]},
    "template": {"spec": {"location": "nightly"}},
}


class QuickTerms:
    def __repr__(self) -> str:
        return "Terms(duration=4, renew_deadline=3, retry=0.5)"


@pytest.fixture
def client(cluster: ControlPlane) -> Iterator[Client]:
    client = Client(cluster.kubeconfig, field_manager="test")
    yield client
    client.close()


class Stage:
    """A namespace of the API server with schedules and their children."""

    def __init__(self, client: Client, namespace: str) -> None:
        self.client, self.namespace = client, namespace

    def make(self, name: str = "nightly", **spec: Any) -> dict[str, Any]:
        body = {"apiVersion": names.API_VERSION, "kind": "VMBackupSchedule", "metadata": {"name": name}}
        return self.client.create(SCHEDULE.collection(self.namespace), body | {"spec": MINIMAL | spec})

    def overdue(self, hours: int, name: str = "nightly") -> None:
        """Let an hourly schedule look as if nobody had been there for so long."""
        since = (datetime.now(UTC) - timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")
        status = {"timetable": {"text": "0 * * * * UTC", "since": since}}
        self.client.patch(f"{SCHEDULE.path(name, self.namespace)}/status", {"status": status})

    def change(self, name: str = "nightly", **spec: Any) -> dict[str, Any]:
        return self.client.patch(SCHEDULE.path(name, self.namespace), {"spec": spec})

    def status(self, name: str = "nightly") -> dict[str, Any]:
        return dict(self.client.get(SCHEDULE.path(name, self.namespace)).get("status") or {})

    def ready(self) -> tuple[str, str]:
        conditions = self.status().get("conditions") or ()
        return next(((one["status"], one["reason"]) for one in conditions if one["type"] == "Ready"), ("", ""))

    def children(self) -> dict[str, dict[str, Any]]:
        return {body["metadata"]["name"]: body for body in self.client.list(VMBACKUP.collection(self.namespace))}

    def finish(self, name: str, outcome: str = "Succeeded", **status: Any) -> None:
        end = {"phase": "Done", "outcome": outcome, "completionTime": "2026-01-01T00:00:00Z"} | status
        self.client.patch(f"{VMBACKUP.path(name, self.namespace)}/status", {"status": end})

    def gone(self, name: str) -> bool:
        try:
            self.client.get(VMBACKUP.path(name, self.namespace))
        except NotFound:
            return True
        return False


@pytest.fixture
def stage(client: Client, namespace: str) -> Stage:
    return Stage(client, namespace)


@pytest.fixture
def kubeconfig(cluster: ControlPlane, namespace: str) -> Path:
    return grant(cluster, namespace)


def leading(kubeconfig: Path, namespace: str, directory: Path, name: str) -> Any:
    limits = Limits(abandon_seconds=6, removal_seconds=3)
    return controller(kubeconfig, namespace, directory, name, terms=QuickTerms(), limits=limits)


@pytest.fixture
def running(kubeconfig: Path, namespace: str, tmp_path: Path) -> Iterator[ControllerProcess]:
    with leading(kubeconfig, namespace, tmp_path, "controller") as process:
        eventually(lambda: process.leads, "the controller leads", PATIENCE_SECONDS)
        yield process
        print(process.log[-4000:])
        assert "Traceback" not in process.log


# -- the API server's word ----------------------------------------------------------------------------------------


def test_defaults_of_server_and_model_are_the_same(stage: Stage) -> None:
    assert VMBackupSchedule.parse(stage.make()).spec == VMBackupScheduleSpec.model_validate(MINIMAL)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"schedule": "@daily"}, "Write five fields"),
        ({"schedule": "30 2 * *"}, "Write five fields"),
        ({"schedule": "TZ=UTC 30 2 * * *"}, "Write five fields"),
        ({"timeZone": "Europe/../etc"}, "Write a time zone of the IANA database"),
        ({"vms": {}}, "Name VMs in names, or say in match"),
        ({"vms": {"names": ["web"], "match": ["*"]}}, "Name VMs in names, or say in match"),
        ({"vms": {"match": ["../*"]}}, "with '*' for any characters"),
        ({"retention": {}}, "Say what is kept"),
        ({"retention": {"keepDaily": 0}}, "Say what is kept"),
        ({"retention": {"keepDaily": -1}}, "greater than or equal to 0"),
        ({"concurrencyPolicy": "Queue"}, "Unsupported value"),
        ({"template": {"spec": {"location": "x", "source": {"name": "db"}}}}, ""),
        (
            {
                "retention": {"keepLast": 1},
                "template": {"spec": {"location": "x", "ttlSecondsAfterFinished": 60}},
            },
            "leave ttlSecondsAfterFinished out",
        ),
    ],
)
def test_bad_input_is_refused_in_words(stage: Stage, spec: dict[str, Any], words: str) -> None:
    if words:
        with pytest.raises(Denied, match=re.escape(words)):
            stage.make(**spec)
    else:
        assert "source" not in stage.make(**spec)["spec"]["template"]["spec"], "what is unknown is dropped"


def test_a_long_name_is_refused_in_words(stage: Stage) -> None:
    with pytest.raises(Denied, match="a name of at most 40 characters"):
        stage.make("n" * 41)


def test_location_takes_a_retention_of_its_own(client: Client, namespace: str) -> None:
    spec = {"directory": {"path": "/srv/backups"}, "retention": {"keepDaily": 7}}
    body = {"apiVersion": names.API_VERSION, "kind": "VMBackupLocation", "metadata": {"name": namespace}}
    made = client.create(LOCATION.collection(), body | {"spec": spec})
    assert made["spec"]["retention"]["keepDaily"] == 7
    with pytest.raises(Denied, match="Say what is kept"):
        client.patch(LOCATION.path(namespace), {"spec": {"retention": {"keepDaily": 0}}})


# -- controllers --------------------------------------------------------------------------------------------------


def test_two_controllers_that_both_lead_make_every_child_once(
    cluster: ControlPlane, kubeconfig: Path, stage: Stage, tmp_path: Path
) -> None:
    """Leases in different namespaces: a mistake of an administrator, and the worst case of a lead that is lost."""
    other = f"{stage.namespace}-other"
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other}})
    vms = [f"vm-{number}" for number in range(10)]
    with (
        leading(kubeconfig, stage.namespace, tmp_path, "first") as first,
        leading(grant(cluster, other), other, tmp_path, "second") as second,
    ):
        eventually(lambda: first.leads and second.leads, "both lead", PATIENCE_SECONDS)
        for name in ("a", "b", "c"):
            stage.make(name, vms={"names": vms}, trigger="now", schedule="0 0 1 1 *")
        eventually(lambda: len(stage.children()) == 30, "30 children", PATIENCE_SECONDS)
        for name in ("a", "b", "c"):
            eventually(lambda name=name: stage.status(name).get("lastTrigger") == "now", "told", PATIENCE_SECONDS)
            stage.change(name, trigger="again")
        eventually(lambda: len(stage.children()) == 60, "60 children", PATIENCE_SECONDS)
        eventually(lambda: stage.status("c").get("lastTrigger") == "again", "told", PATIENCE_SECONDS)
        assert len(stage.children()) == 60
        made = [process.log.count(": made ") for process in (first, second)]
        assert sum(made) == 60
        assert "Traceback" not in first.log + second.log
        assert "NameTaken" not in json.dumps(list(stage.client.list(f"/api/v1/namespaces/{stage.namespace}/events")))


def test_what_was_missed_while_nobody_was_there_is_made_up_for_once(
    kubeconfig: Path, stage: Stage, tmp_path: Path
) -> None:
    stage.make(schedule="0 * * * *")
    stage.overdue(hours=5)
    with leading(kubeconfig, stage.namespace, tmp_path, "before") as before:
        eventually(lambda: len(stage.children()) == 1, "one child", PATIENCE_SECONDS)
        eventually(lambda: stage.status().get("missedRuns"), "missed runs are told", PATIENCE_SECONDS)
        before.end(signal.SIGKILL)
    assert stage.status()["missedRuns"] in (4, 5)
    with leading(kubeconfig, stage.namespace, tmp_path, "after") as after:
        eventually(lambda: after.leads, "leads again", PATIENCE_SECONDS)
        stage.change(trigger="x")
        eventually(lambda: stage.status().get("lastTrigger") == "x", "served", PATIENCE_SECONDS)
        assert len(stage.children()) == 2
        assert stage.status()["missedRuns"] in (4, 5)


def test_the_status_follows_the_children_and_retention_takes_the_old_ones(
    running: ControllerProcess, cluster: ControlPlane, stage: Stage
) -> None:
    stage.make(trigger="1", retention={"keepLast": 1, "dryRun": True})
    verified = {"type": "Verified", "status": "True", "reason": "Checked", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    done: list[str] = []
    for trigger in ("1", "2", "3"):
        stage.change(trigger=trigger)
        eventually(lambda: len(stage.children()) > len(done), "a child", PATIENCE_SECONDS)
        (new,) = set(stage.children()) - set(done)
        done.append(new)
        stage.finish(new, startTime=f"2026-01-0{trigger}T00:00:00Z", conditions=[verified])
    eventually(lambda: stage.status().get("retention", {}).get("removable") == 2, "judged", PATIENCE_SECONDS)
    assert stage.ready() == ("True", "Scheduled")
    assert stage.status()["lastResult"] == "Succeeded"
    report = stage.status()["retention"]
    assert [(one["name"], one["keep"]) for one in report["sets"]] == [
        (done[1], False),
        (done[0], False),
        (done[2], True),
    ]
    rows = cluster.kubectl("get", "vmbs", "--namespace", stage.namespace, "-o", "wide").splitlines()
    assert rows[0].split()[:6] == ["NAME", "SCHEDULE", "ZONE", "SUSPEND", "READY", "ACTIVE"]
    stage.change(retention={"dryRun": False})
    # Nobody has the node that made them: the sets are let go after a while, and that is said.
    eventually(lambda: list(stage.children()) == [done[2]], "the old ones are gone", PATIENCE_SECONDS)
    events = list(stage.client.list(f"/apis/events.k8s.io/v1/namespaces/{stage.namespace}/events"))
    assert {"Retention", "SetLeft"} <= {event["reason"] for event in events}


def test_a_failed_child_makes_the_schedule_not_ready(running: ControllerProcess, stage: Stage) -> None:
    stage.make(trigger="1")
    eventually(stage.children, "a child", PATIENCE_SECONDS)
    (name,) = stage.children()
    stage.finish(name, "Failed")
    eventually(lambda: stage.ready() == ("False", "LastRunFailed"), "not ready", PATIENCE_SECONDS)


# -- deletionPolicy -----------------------------------------------------------------------------------------------


def test_a_deleted_backup_waits_for_its_set_to_be_removed(
    running: ControllerProcess, client: Client, stage: Stage
) -> None:
    node = Node(client, stage.namespace, f"{stage.namespace}-n1", "nightly")
    node.beat()
    node.show(vm(stage.namespace, "web", 1))
    stage.make(trigger="1", template={"spec": {"location": "nightly", "deletionPolicy": "Delete"}})
    eventually(stage.children, "a child", PATIENCE_SECONDS)
    (name,) = stage.children()
    eventually(
        lambda: names.FINALIZER_SET in stage.children()[name]["metadata"].get("finalizers", ()),
        "held from the beginning",
        PATIENCE_SECONDS,
    )
    stage.finish(name, node=node.name)
    body = stage.children()[name]
    client.delete(VMBACKUP.path(name, stage.namespace), body["metadata"]["uid"])
    removed = {
        "type": "SetRemoved",
        "status": "True",
        "reason": "Removed",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    assert not stage.gone(name)
    stage.finish(name, conditions=[removed])
    eventually(lambda: stage.gone(name), "gone", PATIENCE_SECONDS)


def test_the_policy_can_be_changed_and_nothing_else(running: ControllerProcess, client: Client, stage: Stage) -> None:
    stage.make(trigger="1")
    eventually(stage.children, "a child", PATIENCE_SECONDS)
    (name,) = stage.children()
    path = VMBACKUP.path(name, stage.namespace)
    with pytest.raises(Denied, match="method cannot be changed once the VMBackup exists"):
        client.patch(path, {"spec": {"method": "Push", "deletionPolicy": "Delete"}})
    stage.finish(name)
    client.patch(path, {"spec": {"deletionPolicy": "Delete"}})
    held = lambda: names.FINALIZER_SET in client.get(path)["metadata"].get("finalizers", ())  # noqa: E731
    eventually(held, "held", PATIENCE_SECONDS)
    client.patch(path, {"spec": {"deletionPolicy": "Retain"}})
    eventually(lambda: not held(), "let go", PATIENCE_SECONDS)
