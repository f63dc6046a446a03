"""The agent's ledger on a real API server: two writers, one status, nothing lost."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from fakes.objects import T0
from fakes.waiting import eventually
from testbed.controlplane import ControlPlane
from vmbackup.api import names
from vmbackup.api.journal import Run, RunDisk
from vmbackup.api.vmbackup import Executor, Method, Outcome, Phase, VMBackup
from vmbackup.cluster.client import Client
from vmbackup.cluster.errors import Conflict
from vmbackup.cluster.ledger import StatusLedger
from vmbackup.cluster.resources import VMBACKUP, Resources
from vmbackup.core.facts import DomainFacts, Facts, StoreFacts

FACTS = Facts(DomainFacts("web", "u", "running"), StoreFacts())
DISK = RunDisk(
    target="vda",
    source="/images/web.qcow2",
    source_kind="file",
    source_format="qcow2",
    virtual_bytes=100,
    image="vda.qcow2",
    image_format="qcow2",
)


@pytest.fixture
def client(cluster: ControlPlane) -> Iterator[Client]:
    client = Client(cluster.kubeconfig, field_manager=names.FIELD_MANAGER_AGENT)
    yield client
    client.close()


@pytest.fixture
def ledger(client: Client) -> Iterator[StatusLedger]:
    with StatusLedger(Resources(client), Executor(node="n1", session="s1"), interval_seconds=0.01) as ledger:
        yield ledger


def run_of(body: dict[str, Any], phase: Phase, outcome: Outcome | None = None, **changes: Any) -> Run:
    backup = VMBackup.parse(body)
    return Run(
        uid=backup.metadata.uid,
        namespace=backup.metadata.namespace,
        name=backup.metadata.name,
        domain="web",
        domain_uuid="c7a5fdbd-edaf-9455-926a-d65c16db1809",
        vm="web",
        instance="boot/1/1",
        spec=backup.spec,
        location_path="/srv",
        overlay_directory="/srv",
        set_path="ns/web/set",
        method=Method.PUSH,
        method_reason="it can",
        disks=(DISK,),
        phase=phase,
        outcome=outcome,
        started_at=T0,
        attempt_started_at=T0,
        **changes,
    )


def test_a_whole_report_is_accepted_by_the_schema(ledger: StatusLedger, api: Any) -> None:
    body = api.make()
    ledger.report(run_of(body, Phase.COPYING), FACTS)
    eventually(lambda: api.read().get("status", {}).get("phase") == "Copying")
    ledger.report(run_of(body, Phase.DONE, Outcome.SUCCEEDED, finished_at=T0 + 5), FACTS)
    assert ledger.flush(body["metadata"]["uid"], 20)
    status = api.read()["status"]
    assert (status["outcome"], status["set"]) == ("Succeeded", "ns/web/set")
    assert status["observedGeneration"] == 1
    (row,) = api.rows("vmbackups.vmbackup.dev")
    assert row["PHASE"] == "Done"


def test_two_writers_lose_nothing(ledger: StatusLedger, client: Client, api: Any) -> None:
    body = api.make()
    uid = body["metadata"]["uid"]
    resources, path = Resources(client), VMBACKUP.path("backup", api.namespace)
    marks = 30

    def write_finalizers() -> None:
        for number in range(marks):
            while True:
                now = resources.get(VMBACKUP, "backup", api.namespace)
                there = now["metadata"].get("finalizers") or []
                swap = {"resourceVersion": now["metadata"]["resourceVersion"]}
                try:
                    client.patch(path, {"metadata": {**swap, "finalizers": [*there, f"test.dev/{number}"]}})
                except Conflict:
                    continue
                break

    other = threading.Thread(target=write_finalizers)
    other.start()
    number = 0
    while other.is_alive():
        number += 1
        ledger.report(run_of(body, Phase.COPYING, trouble=f"try {number}"), FACTS)
        other.join(0.01)
    api.change(cancel=True)
    ledger.report(run_of(body, Phase.DONE, Outcome.CANCELLED, finished_at=T0 + 5), FACTS)
    assert ledger.flush(uid, 20)
    end = api.read()
    assert len(end["metadata"]["finalizers"]) == marks
    assert end["status"]["outcome"] == "Cancelled"
    assert end["spec"]["cancel"]


def test_the_end_is_told_after_a_restart_of_the_api_server(
    ledger: StatusLedger, cluster: ControlPlane, api: Any
) -> None:
    body = api.make()
    cluster.stop_apiserver()
    ledger.report(run_of(body, Phase.DONE, Outcome.SUCCEEDED, finished_at=T0 + 5), FACTS)
    assert not ledger.flush(body["metadata"]["uid"], 1)
    cluster.start_apiserver()
    assert ledger.flush(body["metadata"]["uid"], 60)
    assert api.read()["status"]["outcome"] == "Succeeded"


def test_a_resource_that_was_made_anew_is_not_written(ledger: StatusLedger, client: Client, api: Any) -> None:
    old = api.make()
    client.delete(VMBACKUP.path("backup", api.namespace), old["metadata"]["uid"])
    api.make()
    ledger.report(run_of(old, Phase.DONE, Outcome.SUCCEEDED, finished_at=T0 + 5), FACTS)
    assert ledger.flush(old["metadata"]["uid"], 20)
    assert "outcome" not in api.read().get("status", {})
    assert ledger.wishes(run_of(old, Phase.DONE)).deleted
