"""What a scrape of an agent shows: what guests felt, counted once, and what is owed to them now."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fakes.waiting import eventually
from unit.core.scene import T0, a_run
from vmbackup.agent.measures import Measures
from vmbackup.api.journal import Freeze, Run
from vmbackup.api.vmbackup import Outcome, Phase
from vmbackup.core.steps import StartCommit, TakeSnapshot
from vmbackup.door.logs import about
from vmbackup.errors import NotYet
from vmbackup.hypervisor.timing import TimedLibvirtd
from vmbackup.store.journal import NodeJournal

NODE = '{node="n1"}'


def samples(measures: Measures, name: str) -> dict[str, float]:
    text = measures.metrics.page().body.decode()
    rows = [line.rpartition(" ") for line in text.splitlines() if line.startswith(f"{name}{{")]
    return {series.removeprefix(name): float(value) for series, _, value in rows}


@pytest.fixture
def measures(tmp_path: Path) -> Iterator[Measures]:
    NodeJournal(tmp_path)
    measures = Measures("n1", tmp_path)
    measures.look_at(lambda: 3, lambda: T0 + 100)
    with about({}):  # what it tells the log of this thread is forgotten with the test
        yield measures


def frozen(milliseconds: int | None, **more: Any) -> Run:
    return a_run(Phase.COPYING, frozen_milliseconds=milliseconds, **more)


# -- what guests felt -----------------------------------------------------------------------------------------------


def test_freeze_is_observed_once_however_often_it_is_reported(measures: Measures) -> None:
    for milliseconds in (None, None, 200, 200, 200):
        measures.notice(frozen(milliseconds))
    assert samples(measures, "vmbackup_frozen_seconds_count") == {NODE: 1}
    assert samples(measures, "vmbackup_frozen_seconds_sum") == {NODE: 0.2}


def test_every_attempt_is_felt_anew(measures: Measures) -> None:
    for attempt in (1, 2):
        measures.notice(frozen(None, attempt=attempt))
        measures.notice(frozen(300, attempt=attempt))
    assert samples(measures, "vmbackup_frozen_seconds_count") == {NODE: 2}


def test_restarted_agent_does_not_observe_again_what_the_journal_tells(measures: Measures) -> None:
    measures.notice(frozen(200, overlay_milliseconds=None))
    measures.notice(frozen(200, overlay_milliseconds=4000))
    assert samples(measures, "vmbackup_frozen_seconds_count") == {}
    assert samples(measures, "vmbackup_overlay_seconds_sum") == {NODE: 4}


def test_finished_runs_are_forgotten(measures: Measures) -> None:
    measures.notice(frozen(None))
    measures.notice(frozen(200).model_copy(update={"phase": Phase.DONE}))
    measures.notice(frozen(200).model_copy(update={"phase": Phase.DONE}))
    assert measures._noticed == {}
    assert samples(measures, "vmbackup_frozen_seconds_count") == {NODE: 1}


def test_backup_by_snapshot_is_felt_and_leaves_no_debt(desk: Any) -> None:
    desk.hear(desk.bind(spec={"method": "Snapshot"}))
    desk.until_over()
    assert samples(desk.measures, "vmbackup_overlay_seconds_count") == {NODE: 1}
    assert samples(desk.measures, "vmbackup_merge_debts") == {NODE: 0}
    assert samples(desk.measures, "vmbackup_backups_running") == {NODE: 0}


# -- what is owed now -----------------------------------------------------------------------------------------------


def test_debt_is_shown_while_the_vm_is_on_an_overlay(desk: Any) -> None:
    desk.hypervisor.errors[StartCommit] = NotYet("HypervisorAway", "away")
    desk.hear(desk.bind(spec={"method": "Snapshot"}))
    eventually(lambda: samples(desk.measures, "vmbackup_merge_debts") == {NODE: 1}, "the debt is shown")
    assert samples(desk.measures, "vmbackup_backups_running") == {NODE: 1}
    desk.hypervisor.errors.clear()
    desk.until_over()
    assert samples(desk.measures, "vmbackup_merge_debts") == {NODE: 0}


def test_debts_are_known_before_anything_is_resumed(measures: Measures, tmp_path: Path) -> None:
    journal = NodeJournal(tmp_path)
    journal.record(a_run(Phase.COPYING, overlay_at=T0 + 10))
    other = {"uid": "7b0f3c51-0000-4000-8000-000000000002", "domain": "demo_vm2"}
    journal.record(a_run(Phase.COMMITTING, overlay_at=T0 + 70, **other))
    assert samples(measures, "vmbackup_merge_debts") == {NODE: 2}
    assert samples(measures, "vmbackup_merge_debt_oldest_seconds") == {NODE: 90}
    assert samples(measures, "vmbackup_frozen_guests") == {NODE: 0}
    assert samples(measures, "vmbackup_backups_running") == {NODE: 3}


@pytest.mark.parametrize("freeze", [Freeze.INTENDED, Freeze.FROZEN])
def test_guest_that_may_be_frozen_is_shown(measures: Measures, tmp_path: Path, freeze: Freeze) -> None:
    NodeJournal(tmp_path).record(a_run(Phase.FREEZING, freeze=freeze))
    assert samples(measures, "vmbackup_frozen_guests") == {NODE: 1}


def test_stranded_vm_is_shown_until_somebody_has_looked(measures: Measures, tmp_path: Path) -> None:
    journal = NodeJournal(tmp_path)
    run = a_run(Phase.DONE, outcome=Outcome.STRANDED)
    journal.record(run)
    assert samples(measures, "vmbackup_stranded_vms") == {NODE: 1}
    journal.forget(run)
    assert samples(measures, "vmbackup_stranded_vms") == {NODE: 0}


def test_record_that_cannot_be_read_does_not_end_the_scrape_and_is_left_alone(
    measures: Measures, tmp_path: Path
) -> None:
    broken = tmp_path / "runs" / "x.json"
    broken.write_text("{")
    assert samples(measures, "vmbackup_merge_debts") == {NODE: 0}
    assert broken.exists()


# -- libvirt --------------------------------------------------------------------------------------------------------


def test_call_that_fails_is_timed_as_well(measures: Measures, tmp_path: Path) -> None:
    hypervisor = TimedLibvirtd(f"qemu+unix:///system?socket={tmp_path}/none", measures.took)
    with pytest.raises(NotYet):
        hypervisor.vms()
    with pytest.raises(NotYet):
        hypervisor.perform(a_run(), TakeSnapshot(()))
    counts = samples(measures, "vmbackup_libvirt_call_seconds_count")
    assert counts == {'{call="ListVMs",node="n1"}': 1, '{call="TakeSnapshot",node="n1"}': 1}
