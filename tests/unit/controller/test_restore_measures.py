"""What a scrape shows of restores and proofs: each end once, and which sets have stood or failed a proof."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from fakes.objects import T0
from vmbackup.api import names
from vmbackup.cluster.lease import Election
from vmbackup.cluster.resources import NAMESPACE, VMRESTORE
from vmbackup.controller.survey import Survey
from vmbackup.core.kstatus import rfc3339
from vmbackup.door.health import Health

HELD = {"finalizers": [names.FINALIZER]}
DONE = {"phase": "Done", "outcome": "Succeeded", "node": "n1"}


@pytest.fixture
def scraped(stage: Any) -> Any:
    """The stage, with gauges that know it."""
    stage.cache.put(NAMESPACE, {"metadata": {"name": "team-a", "uid": "uid-team-a", "resourceVersion": "1"}})
    survey = Survey(stage.resources, stage.cache, "system", Health(), lambda: None)
    stage.measures.look_at(survey, cast(Election, SimpleNamespace(leading=True)), Health())
    return stage


def samples(stage: Any, name: str) -> dict[str, float]:
    page = stage.measures.metrics.page().body.decode()
    rows = [line.rpartition(" ") for line in page.splitlines() if line.startswith(f"{name}{{")]
    return {series.removeprefix(name): float(value) for series, _, value in rows}


def test_end_of_a_restore_is_counted_once_by_its_kind(scraped: Any) -> None:
    scraped.restore("new", {"newDomain": {"name": "w"}}, DONE, **HELD)
    scraped.restore("boot", {"proof": {"kind": "Boot"}}, DONE | {"outcome": "Failed"}, **HELD)
    for _ in range(3):
        scraped.restores.reconcile(T0)
    assert samples(scraped, "vmbackup_restores_total") == {
        '{kind="NewDomain",namespace="team-a",result="Succeeded"}': 1,
        '{kind="Boot",namespace="team-a",result="Failed"}': 1,
    }


def test_refused_restore_is_counted(scraped: Any) -> None:
    scraped.restore("lost", {"disks": {}}, {})
    scraped.restores.reconcile(T0 + 10_000)
    scraped.restores.reconcile(T0 + 10_001)
    body = scraped.server.objects[VMRESTORE.path("lost", "team-a")]
    assert body["status"]["outcome"] == "Refused"
    assert samples(scraped, "vmbackup_restores_total") == {'{kind="Disks",namespace="team-a",result="Refused"}': 1}


def test_proofs_of_the_sets_that_are_there(scraped: Any) -> None:
    def proof(at: float, *, succeeded: bool) -> dict[str, Any]:
        return {"kind": "Boot", "succeeded": succeeded, "time": rfc3339(at)}

    for number, (at, good) in enumerate([(T0, True), (T0 + 60, True), (T0 + 120, False)]):
        done = DONE | {"completionTime": rfc3339(T0), "proofs": [proof(at, succeeded=good)]}
        scraped.backup(f"b{number}", status=done)
    labels = '{kind="Boot",namespace="team-a",vm="web"}'
    assert samples(scraped, "vmbackup_last_proof_timestamp_seconds") == {labels: T0 + 60}
    assert samples(scraped, "vmbackup_failed_proof_sets") == {labels: 1}
