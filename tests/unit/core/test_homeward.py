"""Rows of the snapshot table that bring the VM home: commit, pivot, and the overlays that are left."""

from dataclasses import replace
from typing import Any

import pytest

from unit.core.scene import (
    BASE,
    BORN,
    OVERLAY,
    REBORN,
    T0,
    a_disk,
    a_domain,
    a_run,
    absent,
    committing,
    did,
    facts,
    on_overlay,
    over,
    run_disk,
    said_no,
    store,
)
from unit.core.snapshot_run import AWAY, COPIED, PIVOTED, THERE, decided, end
from vmbackup.api.journal import Run
from vmbackup.api.vmbackup import Outcome, Phase
from vmbackup.core.decide import decide
from vmbackup.core.facts import DomainFacts, Image, LastAct, StoreFacts
from vmbackup.core.rules import Move
from vmbackup.core.steps import Pivot, RemoveOverlay, StartCommit

# -- the way home -----------------------------------------------------------------------------------------------------


def test_commit_goes_into_the_recorded_base_and_its_count_is_written_first() -> None:
    move = decided(Phase.COMMITTING, AWAY, disks=COPIED)
    assert move.step == StartCommit("vda", BASE)
    assert (move.run.disks[0].commits, move.run.not_before) == (1, T0 + 11)


@pytest.mark.parametrize("commits", [1, 1023, 1024, 5000])
def test_commit_that_dies_again_and_again_is_begun_again_for_days(commits: int) -> None:
    """A full base may stay full over a weekend; 2.0 ** 1024 is more than a float can hold."""
    move = decided(Phase.COMMITTING, AWAY, disks=(run_disk(commits=commits),), **over())
    assert move.step == StartCommit("vda", BASE)
    assert 0 < move.run.not_before - (T0 + 10) <= 30


def test_disk_whose_commit_has_died_rests_while_another_is_merged() -> None:
    disks = (run_disk(commits=1), run_disk(target="vdb"))
    domain = a_domain(on_overlay(), replace(on_overlay(), target="vdb", source=disks[1].overlay, backing=()))
    there = store(overlay_bytes={"vda": 1, "vdb": 1})
    assert decided(Phase.COMMITTING, domain, there, disks=disks, not_before=T0 + 20).step == StartCommit(
        "vdb", disks[1].source
    )


@pytest.mark.parametrize("tries", [0, 1500])
def test_refused_commit_rests_and_says_why(tries: int) -> None:
    last = did(StartCommit("vda", BASE), said_no("No space left on device"))
    move = decided(Phase.COMMITTING, AWAY, last=last, tries=tries, **over())
    assert (move.step, move.run.phase) == (None, Phase.COMMITTING)
    assert "No space left" in move.run.trouble
    later = decide(move.run, facts(AWAY, store(overlay_bytes=THERE)), T0 + 10.1)
    assert "No space left" in later.run.trouble, "the words stay while it rests"


def test_words_go_when_the_commit_goes_on() -> None:
    merging = a_domain(on_overlay(job=committing()))
    assert decided(Phase.COMMITTING, merging, disks=COPIED, trouble="No space left").run.trouble == ""


@pytest.mark.parametrize(("there", "words"), [(THERE, "start it"), ({}, "which is gone")])
def test_vm_that_is_off_on_the_overlay_is_waited_for_in_words(there: dict[str, int], words: str) -> None:
    move = decided(Phase.COMMITTING, replace(AWAY, state="off"), store(overlay_bytes=there), disks=COPIED)
    assert (move.step, move.run.phase, move.run.outcome) == (None, Phase.COMMITTING, None)
    assert words in move.run.trouble
    assert OVERLAY in move.run.trouble


def test_base_that_somebody_else_has_merged_makes_the_copy_doubtful() -> None:
    """While the VM was off or elsewhere nobody watched the base: it may have been written while it was copied."""
    move = decided(Phase.COMMITTING, a_domain(instance=REBORN), store(overlay_bytes={}), disks=COPIED)
    assert end(move) == "Committing SourceLost"
    assert decide(move.run, facts(a_domain(instance=REBORN)), T0 + 11).run.phase is Phase.CLEANING


def test_pivot_is_written_down_with_the_qemu_and_the_definition_it_is_meant_for() -> None:
    move = decided(Phase.PIVOTING, a_domain(on_overlay(job=committing(ready=True))), disks=COPIED)
    assert move.step == Pivot("vda")
    assert (move.run.disks[0].pivot_instance, move.run.disks[0].followed) == (BORN, True)
    redefined = a_domain(on_overlay(job=committing(ready=True), inactive_source=BASE))
    assert not decided(Phase.PIVOTING, redefined, disks=COPIED).run.disks[0].followed


def test_pivot_that_libvirt_took_but_does_not_show_is_looked_at_before_it_is_repeated() -> None:
    ready = a_domain(on_overlay(job=committing(ready=True)))
    move = decided(Phase.PIVOTING, ready, last=did(Pivot("vda")), disks=COPIED)
    assert (move.step, move.wait_seconds) == (None, 0.5)
    assert decided(Phase.PIVOTING, ready, last=did(Pivot("vdb")), disks=(*COPIED, run_disk(target="vdb"))).step is None


def test_disks_are_pivoted_only_when_all_are_ready() -> None:
    disks = (run_disk(), run_disk(target="vdb"))
    second = replace(on_overlay(job=committing()), target="vdb", source=disks[1].overlay, backing=())
    domain = a_domain(on_overlay(job=committing(ready=True)), second)
    there = store(overlay_bytes={"vda": 1, "vdb": 1})
    assert decided(Phase.COMMITTING, domain, there, disks=disks).step is None
    assert decided(Phase.PIVOTING, domain, there, disks=disks).run.phase is Phase.COMMITTING


@pytest.mark.parametrize(
    ("domain", "words"),
    [
        (a_domain(instance=REBORN), f"the guest runs on {BASE} while the overlay {OVERLAY}"),
        (absent(), "no such disk"),
        (a_domain(a_disk(source="/images/other")), "/images/other"),
        (a_domain(a_disk(inactive_source=OVERLAY)), "virsh edit"),
    ],
)
@pytest.mark.parametrize("phase", [Phase.COMMITTING, Phase.PIVOTING])
def test_lost_disk_strands_the_backup_with_words_and_nothing_is_touched(
    phase: Phase, domain: DomainFacts, words: str
) -> None:
    move = decided(phase, domain)
    assert (move.run.outcome, move.step) == (Outcome.STRANDED, None)
    assert move.run.failure is not None
    assert words in move.run.failure.message
    assert OVERLAY in move.run.failure.message


def test_other_disks_come_home_beside_a_lost_one() -> None:
    disks = (run_disk(), run_disk(target="vdb"))
    second = replace(on_overlay(), target="vdb", source=disks[1].overlay, backing=())
    domain = a_domain(a_disk(source="/images/other"), second)
    there = store(overlay_bytes={"vda": 1, "vdb": 1})
    stranded = decided(Phase.COMMITTING, domain, there, disks=disks).run
    assert decide(stranded, facts(domain, there), T0 + 11).step == StartCommit("vdb", disks[1].source)


# -- the overlays -----------------------------------------------------------------------------------------------------


def run_through(run: Run, domain: DomainFacts, seen: StoreFacts, last: LastAct | None = None) -> Move:
    """Return the first move that is an act or leaves Cleaning."""
    now, move = T0 + 10, decide(run, facts(domain, seen, last=last), T0 + 10)
    while move.step is None and move.run.phase is Phase.CLEANING:
        now += (move.wait_seconds or 0) + 0.1
        move = decide(move.run, facts(domain, seen), now)
    return move


def cleaning(**changes: Any) -> Run:
    fields: dict[str, Any] = {"began": True, "overlay_at": T0, "overlay_milliseconds": 5000, "disks": PIVOTED}
    return a_run(Phase.CLEANING, **{**fields, **changes})


def test_overlay_of_no_use_is_removed() -> None:
    assert run_through(cleaning(), a_domain(), store(overlay_bytes=THERE)).step == RemoveOverlay("vda")


@pytest.mark.parametrize(
    "domain",
    [
        AWAY,
        a_domain(a_disk(inactive_source=OVERLAY)),
        a_domain(a_disk(source="/images/other")),
        replace(AWAY, state="off"),
    ],
)
def test_overlay_that_is_or_may_be_in_use_is_not_removed(domain: DomainFacts) -> None:
    move = decided(Phase.CLEANING, domain, disks=PIVOTED)
    assert not isinstance(move.step, RemoveOverlay)
    assert move.run.phase is Phase.COMMITTING or move.run.outcome is Outcome.STRANDED


def test_vm_that_is_on_its_overlay_again_counts_as_away_again() -> None:
    move = decided(Phase.CLEANING, AWAY, disks=PIVOTED, overlay_milliseconds=5000)
    assert (move.run.phase, move.run.overlay_milliseconds) == (Phase.COMMITTING, None)


def test_overlay_that_cannot_be_removed_holds_up_neither_the_others_nor_the_end_and_is_told() -> None:
    disks = tuple(run_disk(target=target, copied=True, pivot_instance=BORN) for target in ("vda", "vdb"))
    domain = a_domain(a_disk(), a_disk(target="vdb"))
    there = store(overlay_bytes={"vda": 1, "vdb": 1})
    run, now, tried, last = cleaning(disks=disks), T0 + 10.0, [], None
    while run.phase is Phase.CLEANING:
        move = decide(run, facts(domain, there, last=last), now)
        last = did(move.step, said_no("Read-only file system")) if move.step else None
        tried += [move.step.target] if isinstance(move.step, RemoveOverlay) else []
        run, now = move.run, now + (move.wait_seconds or 0) + 0.1
    assert (run.phase, run.outcome) == (Phase.VERIFYING, None)
    assert {"vda", "vdb"} == set(tried)
    assert all(disk.overlay in run.left for disk in disks)
    assert "Read-only file system" in run.left


def test_removal_without_effect_is_not_repeated_without_a_rest() -> None:
    last = did(RemoveOverlay("vda"))
    move = decide(cleaning(), facts(a_domain(), store(overlay_bytes=THERE), last=last), T0)
    assert (move.step, move.wait_seconds) == (None, 1.0)
    assert "still there" in move.run.trouble


def test_time_on_the_overlay_is_told_from_a_snapshot_that_never_was() -> None:
    home = decided(Phase.COMMITTING, a_domain(), disks=PIVOTED).run
    assert (home.phase, home.overlay_milliseconds) == (Phase.CLEANING, 10_000)
    refused = cleaning(overlay_milliseconds=None, disks=(run_disk(),), **over())
    done = decide(refused, facts(a_domain(), store()), T0 + 10).run
    assert (done.phase, done.overlay_at, done.overlay_milliseconds) == (Phase.DISCARDING, None, None)


def test_foreign_layer_is_told_apart_from_a_base() -> None:
    layers = (Image(OVERLAY, "qcow2", "file"), Image(BASE, "qcow2", "file"))
    move = decided(Phase.COMMITTING, a_domain(a_disk(source="/images/vda.snap", backing=layers)))
    assert move.run.outcome is Outcome.STRANDED
