"""The status gets through: the latest wins, the end is never lost, and nobody waits for the API server."""

import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest

from fakes.apiserver import FakeApiServer, failing
from fakes.objects import T0, backup, backup_body
from fakes.waiting import eventually
from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Run, RunDisk
from vmbackup.api.vmbackup import Executor, Method, Outcome, Phase, VMBackupSpec
from vmbackup.cluster.client import Client
from vmbackup.cluster.errors import APIServerAway, Conflict, Denied
from vmbackup.cluster.ledger import StatusLedger
from vmbackup.cluster.resources import VMBACKUP, Resources
from vmbackup.core.facts import DomainFacts, Facts, StoreFacts, Wishes
from vmbackup.errors import NotYet, Refused

PATH = VMBACKUP.path("b1", "team-a")
UID = "uid-team-a-b1"
FACTS = Facts(DomainFacts("team-a_web", "u", "running"), StoreFacts())
SPEC = VMBackupSpec.model_validate({"source": {"name": "web"}, "location": "nightly"})
DISK = RunDisk(
    target="vda",
    source="/images/web.qcow2",
    source_kind="file",
    source_format="qcow2",
    virtual_bytes=100,
    image="vda.qcow2",
    image_format="qcow2",
)


def run(phase: Phase = Phase.COPYING, outcome: Outcome | None = None, **changes: Any) -> Run:
    fields: dict[str, Any] = {
        "uid": UID,
        "namespace": "team-a",
        "name": "b1",
        "domain": "team-a_web",
        "domain_uuid": "c7a5fdbd-edaf-9455-926a-d65c16db1809",
        "vm": "web",
        "instance": "boot/1/1",
        "spec": SPEC,
        "location_path": "/srv",
        "overlay_directory": "/srv",
        "set_path": "team-a/web/x",
        "method": Method.PUSH,
        "method_reason": "can",
        "disks": (DISK,),
        "phase": phase,
        "outcome": outcome,
        "started_at": T0,
        "attempt_started_at": T0,
    }
    return Run(**{**fields, **changes})


DONE = run(Phase.DONE, Outcome.SUCCEEDED, finished_at=T0 + 9)


@pytest.fixture
def server() -> FakeApiServer:
    fake = FakeApiServer()
    fake.put(PATH, backup_body(status={"node": "n1", "phase": "Assigned"}))
    return fake


@pytest.fixture
def ledger(server: FakeApiServer) -> Iterator[StatusLedger]:
    with StatusLedger(Resources(cast(Client, server)), Executor(node="n1", session="s1"), now=lambda: T0) as ledger:
        yield ledger


def status(server: FakeApiServer) -> dict[str, Any]:
    return dict(server.objects[PATH]["status"])


def test_a_report_reaches_the_resource(server: FakeApiServer, ledger: StatusLedger) -> None:
    ledger.report(run(), FACTS)
    eventually(lambda: status(server)["phase"] == "Copying")
    assert status(server)["executor"] == {"node": "n1", "session": "s1"}
    assert status(server)["node"] == "n1"


def test_progress_is_not_written_more_often_than_every_two_seconds(server: FakeApiServer, ledger: StatusLedger) -> None:
    ledger.report(run(), FACTS)
    eventually(lambda: status(server)["phase"] == "Copying")
    for number in range(200):
        ledger.report(run(trouble=f"try {number}"), FACTS)
    ledger.report(run(Phase.VERIFYING), FACTS)
    eventually(lambda: status(server)["phase"] == "Verifying", "a change of phase is not held back", 1.5)
    assert len(server.writes()) <= 3


def test_what_was_held_back_is_written_later(server: FakeApiServer) -> None:
    with StatusLedger(
        Resources(cast(Client, server)), Executor(node="n1", session="s1"), interval_seconds=0.05, now=lambda: T0
    ) as ledger:
        ledger.report(run(), FACTS)
        eventually(lambda: status(server)["phase"] == "Copying")
        ledger.report(run(trouble="libvirt is slow"), FACTS)
        eventually(lambda: "libvirt is slow" in status(server)["conditions"][0]["message"])


def test_the_end_gets_through_an_api_server_that_was_away(server: FakeApiServer, ledger: StatusLedger) -> None:
    server.trouble = failing(2)
    ledger.report(DONE, FACTS)
    eventually(lambda: ledger.flush(UID, 5))
    assert status(server)["outcome"] == "Succeeded"


def test_flush_says_no_while_the_api_server_is_away(server: FakeApiServer, ledger: StatusLedger) -> None:
    server.trouble = failing(10_000)
    ledger.report(DONE, FACTS)
    assert not ledger.flush(UID, 0.1)
    server.trouble = failing(0)
    assert ledger.flush(UID, 5)


def test_flush_says_no_before_the_end_was_reported(server: FakeApiServer, ledger: StatusLedger) -> None:
    assert not ledger.flush(UID, 0.0)
    ledger.report(run(), FACTS)
    eventually(lambda: status(server)["phase"] == "Copying")
    assert not ledger.flush(UID, 0.05)


def test_a_resource_that_is_gone_holds_nobody_up_and_counts_as_deleted(
    server: FakeApiServer, ledger: StatusLedger
) -> None:
    server.remove(PATH)
    ledger.report(run(), FACTS)
    assert ledger.flush(UID, 5)
    assert ledger.wishes(run()).deleted


def test_a_new_resource_of_the_same_name_is_not_written(server: FakeApiServer, ledger: StatusLedger) -> None:
    server.put(PATH, backup_body(metadata={"uid": "another"}))
    ledger.report(DONE, FACTS)
    assert ledger.flush(UID, 5)
    assert server.writes() == []


def test_a_conflict_loses_neither_write(server: FakeApiServer, ledger: StatusLedger) -> None:
    ledger.report(run(), FACTS)
    eventually(lambda: status(server)["phase"] == "Copying")
    server.change(PATH, spec={"cancel": True}, metadata={"finalizers": ["somebody/else"]})
    ledger.report(DONE, FACTS)
    assert ledger.flush(UID, 5)
    assert status(server)["phase"] == "Done"
    assert server.objects[PATH]["spec"]["cancel"]
    assert server.objects[PATH]["metadata"]["finalizers"] == ["somebody/else"]


def test_a_cancellation_is_heard_from_the_answers_when_the_watch_is_silent(
    server: FakeApiServer, ledger: StatusLedger
) -> None:
    assert ledger.wishes(run()) == Wishes()
    server.change(PATH, spec={"cancel": True})
    ledger.report(run(), FACTS)
    eventually(lambda: ledger.wishes(run()).cancel)


def test_wishes_are_heard_and_never_taken_back(ledger: StatusLedger) -> None:
    ledger.heard(UID, Wishes(cancel=True))
    ledger.heard(UID, Wishes())
    ledger.heard(UID, Wishes(deleted=True))
    assert ledger.wishes(run()) == Wishes(cancel=True, deleted=True)
    ledger.forget(UID)
    assert ledger.wishes(run()) == Wishes()


@pytest.mark.parametrize("error", [Denied("PATCH: 403"), Conflict("again and again"), RuntimeError("a fault of ours")])
def test_no_error_ends_the_writer(server: FakeApiServer, ledger: StatusLedger, error: Any) -> None:
    server.trouble = failing(1, error, "GET")
    ledger.report(run(), FACTS)
    eventually(lambda: status(server)["phase"] == "Copying")


def test_reports_never_wait_for_a_server_that_hangs(server: FakeApiServer, ledger: StatusLedger) -> None:
    hanging, answered = threading.Event(), threading.Event()

    def hang(_method: str, _path: str) -> None:
        hanging.set()
        answered.wait(10)

    server.trouble = hang
    ledger.report(run(), FACTS)
    assert hanging.wait(5)
    for _ in range(100):
        ledger.report(run(Phase.VERIFYING), FACTS)  # would never return if it waited for the writer
    ledger.report(DONE, FACTS)
    server.trouble = failing(0)
    answered.set()
    assert ledger.flush(UID, 5)
    assert status(server)["phase"] == "Done"


def test_the_server_is_given_the_rest_that_it_asks_for(
    server: FakeApiServer, ledger: StatusLedger, caplog: pytest.LogCaptureFixture
) -> None:
    server.trouble = failing(1, APIServerAway("429", retry_after_seconds=3600))
    with caplog.at_level("WARNING"):
        ledger.report(run(), FACTS)
        eventually(lambda: "again in 3600.0 s" in caplog.text)
    ledger.report(DONE, FACTS)
    assert server.calls == []
    assert ledger.flush(UID, 5), "who flushes does not wait for an hour"


def test_a_backup_that_waits_or_is_refused_on_the_node_says_so(server: FakeApiServer, ledger: StatusLedger) -> None:
    asked = backup(status={"node": "n1", "phase": "Assigned"})
    ledger.waits(asked, NotYet(Reason.FOREIGN_JOB, "a migration runs"))
    eventually(lambda: status(server).get("conditions", [{}])[0].get("reason") == "ForeignJob")
    assert status(server)["phase"] == "Assigned"
    ledger.refuses(asked, Refused(Reason.NO_DISKS, "VM web has no disk"))
    assert ledger.flush(UID, 5)
    assert (status(server)["phase"], status(server)["outcome"]) == ("Done", "Refused")
