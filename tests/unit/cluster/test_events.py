"""Events: said once, counted when repeated, never in anybody's way."""

import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest

from fakes.apiserver import FakeApiServer, failing
from fakes.waiting import eventually
from vmbackup.api.vmbackup import ObjectMeta
from vmbackup.cluster import events
from vmbackup.cluster.client import Client
from vmbackup.cluster.events import Happening, Recorder

BACKUP = ObjectMeta(name="b1", namespace="team-a", uid="u1")


@pytest.fixture
def server() -> FakeApiServer:
    return FakeApiServer()


@pytest.fixture
def recorder(server: FakeApiServer) -> Iterator[Recorder]:
    recorder = Recorder(cast(Client, server), component="vmbackup-controller", instance="c1")
    recorder.start()
    yield recorder
    recorder.stop(5)


def happening(note: str = "Assigned to node n1.", metadata: ObjectMeta = BACKUP) -> Happening:
    return Happening("VMBackup", metadata, "Normal", "Assigned", "Bind", note)


def told(server: FakeApiServer) -> list[dict[str, Any]]:
    return list(server.objects.values())


def test_an_event_names_what_happened_to_whom(server: FakeApiServer, recorder: Recorder) -> None:
    recorder.record(happening())
    eventually(lambda: told(server))
    (event,) = told(server)
    assert event["metadata"]["namespace"] == "team-a"
    assert event["regarding"] == {
        "apiVersion": "vmbackup.dev/v1alpha1",
        "kind": "VMBackup",
        "name": "b1",
        "namespace": "team-a",
        "uid": "u1",
    }
    assert (event["type"], event["reason"], event["note"]) == ("Normal", "Assigned", "Assigned to node n1.")
    assert event["eventTime"].endswith("Z")


def test_the_same_again_becomes_a_series(
    server: FakeApiServer, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "SERIES_SECONDS", 0.0)
    for _ in range(5):
        recorder.record(happening())
    eventually(lambda: told(server) and told(server)[0].get("series", {}).get("count") == 5)
    assert len(told(server)) == 1


def test_a_storm_of_the_same_is_one_write(server: FakeApiServer, recorder: Recorder) -> None:
    for _ in range(100):
        recorder.record(happening())
    recorder.record(happening("something else"))
    eventually(lambda: len(told(server)) == 2)
    assert len(server.calls) == 2


def test_an_event_that_the_server_has_forgotten_is_told_anew(
    server: FakeApiServer, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "SERIES_SECONDS", 0.0)
    recorder.record(happening())
    eventually(lambda: told(server))
    server.objects.clear()
    recorder.record(happening())
    eventually(lambda: told(server))


def test_cluster_scoped_objects_get_theirs_in_default(server: FakeApiServer, recorder: Recorder) -> None:
    recorder.record(happening(metadata=ObjectMeta(name="nightly", uid="u2")))
    eventually(lambda: told(server))
    assert told(server)[0]["metadata"]["namespace"] == "default"


def test_a_long_note_is_cut_to_what_the_api_takes(server: FakeApiServer, recorder: Recorder) -> None:
    recorder.record(happening("ü" * 2000))
    eventually(lambda: told(server))
    assert len(told(server)[0]["note"].encode()) <= 1024


def test_trouble_costs_one_event_and_not_the_recorder(server: FakeApiServer, recorder: Recorder) -> None:
    server.trouble = failing(1, cast(Any, RuntimeError("a fault of ours")))
    recorder.record(happening("first"))
    recorder.record(happening("second"))
    eventually(lambda: [event["note"] for event in told(server)] == ["second"])


def test_an_outage_costs_no_event(server: FakeApiServer, recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "TRY_AGAIN_SECONDS", 0.001)
    server.trouble = failing(5)
    recorder.record(happening("told in the end"))
    eventually(lambda: [event["note"] for event in told(server)] == ["told in the end"])


def test_recording_never_waits_for_a_server_that_hangs(server: FakeApiServer, recorder: Recorder) -> None:
    answered = threading.Event()
    server.trouble = lambda _method, _path: cast(None, answered.wait(10))
    for number in range(events.QUEUE_SIZE * 2):
        recorder.record(happening(f"number {number}"))
    answered.set()
    eventually(lambda: len(told(server)) >= events.QUEUE_SIZE // 2)
    assert len(told(server)) <= events.QUEUE_SIZE + 2
