"""What kopf does not tell: deletions missed while a watch was renewed, and watches that fell silent."""

import json
import threading
import urllib.error
import urllib.request
from typing import Any

import pytest

from fakes.apiserver import failing
from vmbackup.cluster.errors import NotFound
from vmbackup.controller import survey as module
from vmbackup.controller.survey import Survey
from vmbackup.door.health import Health, serve


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def survey(stage: Any, health: Health) -> Survey:
    return Survey(stage.resources, stage.cache, "system", health, lambda: None)


def test_a_deletion_that_no_watch_told_is_found(stage: Any, survey: Survey) -> None:
    stage.backup("b1")
    stage.server.remove(stage.path("b1"))
    survey.compare()
    assert stage.cache.backups() == []


def test_a_silent_watch_is_a_fault_from_the_second_look_on(stage: Any, survey: Survey, health: Health) -> None:
    stage.backup("b1")
    stage.server.change(stage.path("b1"), spec={"cancel": True})
    survey.compare()
    assert health.problems() == [], "the event may be on its way"
    survey.compare()
    assert health.problems() == ["watch of VMBackup: 1 objects unheard"]
    stage.hear()
    survey.compare()
    assert health.problems() == []


def test_a_new_object_that_is_never_heard_of_is_a_fault(stage: Any, survey: Survey, health: Health) -> None:
    stage.backup("b1")
    stage.cache.drop(module.WATCHED[0], "uid-team-a-b1")
    survey.compare()
    survey.compare()
    assert health.problems()


def test_busy_objects_are_no_fault(stage: Any, survey: Survey, health: Health) -> None:
    stage.backup("b1")
    for number in range(4):
        stage.server.change(stage.path("b1"), status={"attempt": number})
        survey.compare()
        stage.hear()
        stage.server.change(stage.path("b1"), status={"attempt": number + 10})
        survey.compare()
        assert health.problems() == []
        stage.hear()


def test_loading_fails_without_the_api_server_and_without_the_crds(
    stage: Any, survey: Survey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOAD_RETRY_SECONDS", 0.01)
    stage.server.trouble = failing(1)
    assert not survey.load(threading.Event())
    stage.server.trouble = failing(1, NotFound("the server could not find the requested resource"))
    assert not survey.load(threading.Event())
    assert not survey.loaded_within(3600)
    assert survey.load(threading.Event())
    assert survey.loaded_within(3600)


def ask(port: int, path: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read() or b"{}") if error.code == 503 else None


def test_the_probes_say_what_is_wrong(health: Health) -> None:
    server = serve(health, 0)
    port = server.server_address[1]
    try:
        assert ask(port, "/healthz") == (200, {"problems": []})
        assert ask(port, "/readyz") == (503, {"problems": ["the cache is not filled yet"]})
        health.ready = True
        assert ask(port, "/readyz")[0] == 200
        health.beat("reconcile loop", -1)
        code, said = ask(port, "/healthz")
        assert code == 503
        assert said["problems"][0].startswith("reconcile loop: no sign of life")
        assert ask(port, "/secrets")[0] == 404
    finally:
        # The server hears it every half second only: it is not waited for.
        threading.Thread(target=lambda: (server.shutdown(), server.server_close()), daemon=True).start()
