"""Where a disk is, seen from libvirt and the overlay alone. A wrong answer here destroys a disk."""

from dataclasses import replace
from typing import Any

import pytest

from unit.core.scene import (
    BASE,
    BORN,
    EMPTY,
    OVERLAY,
    REBORN,
    WRITTEN,
    a_disk,
    a_domain,
    a_run,
    absent,
    committing,
    facts,
    on_overlay,
    over,
    run_disk,
    store,
    view,
)
from vmbackup.api.vmbackup import Outcome, Phase
from vmbackup.core.facts import BlockJob, DomainFacts, Image
from vmbackup.core.position import Position, position

BEGUN: dict[str, Any] = {"began": True}
PIVOTED = run_disk(pivot_instance=BORN, followed=True)
SOMEBODY = "/images/vda.somebody"


def where(domain: DomainFacts, overlay_bytes: int | None = WRITTEN, phase: Phase = Phase.COMMITTING, **run: Any) -> str:
    """Return the position's name. overlay_bytes: None when there is no overlay file."""
    the_run = a_run(phase, **BEGUN, **run)
    seen = store(overlay_bytes={} if overlay_bytes is None else {"vda": overlay_bytes})
    return position(view(the_run, facts(domain, seen)), the_run.disks[0]).name


# -- on the overlay ---------------------------------------------------------------------------------------------------


def test_overlay_without_a_job_is_to_be_committed() -> None:
    assert where(a_domain(on_overlay())) == "ON_OVERLAY"


def test_overlay_of_a_guest_that_was_started_again_on_it_is_to_be_committed() -> None:
    assert where(a_domain(on_overlay(), instance=REBORN)) == "ON_OVERLAY"


def test_commit_that_is_not_ready_is_waited_for_whatever_its_bytes_say() -> None:
    assert where(a_domain(on_overlay(job=committing()))) == "MERGING"


def test_commit_that_is_ready_is_to_be_pivoted() -> None:
    assert where(a_domain(on_overlay(job=committing(ready=True)))) == "READY"


def test_somebody_elses_block_job_is_not_taken_for_our_commit() -> None:
    assert where(a_domain(on_overlay(job=BlockJob("copy", ready=True)))) == "ON_OVERLAY"


def test_overlay_that_was_unlinked_while_it_is_open_is_to_be_committed_at_once() -> None:
    assert where(a_domain(on_overlay()), overlay_bytes=None) == "ON_OVERLAY"


def test_paused_guest_is_taken_home_like_a_running_one() -> None:
    assert where(a_domain(on_overlay(), state="paused")) == "ON_OVERLAY"


def test_vm_that_is_off_boots_on_the_overlay_and_is_waited_for() -> None:
    assert where(a_domain(on_overlay(), state="off")) == "OFF"


def test_overlay_above_another_base_is_never_committed() -> None:
    assert where(a_domain(on_overlay(base="/images/golden.qcow2"))) == "LOST"


# -- on the base ------------------------------------------------------------------------------------------------------


def test_nothing_of_ours_is_in_use_before_the_snapshot() -> None:
    run = a_run(Phase.FREEZING)
    assert position(view(run, facts(a_domain(a_disk(source=SOMEBODY)))), run.disks[0]) is Position.NEVER_LEFT


def test_snapshot_that_failed_left_the_disk_on_its_base() -> None:
    assert where(a_domain(), overlay_bytes=None, phase=Phase.SNAPSHOTTING) == "NEVER_LEFT"


def test_same_qemu_on_the_base_has_pivoted() -> None:
    assert where(a_domain(), disks=(PIVOTED,)) == "HOME"


def test_same_qemu_on_the_base_without_our_pivot_was_pivoted_by_somebody_or_never_left() -> None:
    assert where(a_domain()) == "NEVER_LEFT"


def test_guest_that_was_started_again_on_the_overlay_and_then_pivoted_is_home() -> None:
    disk = run_disk(pivot_instance=REBORN, followed=True)
    assert where(a_domain(instance=REBORN), disks=(disk,)) == "HOME"


def test_pivot_just_before_the_crash_is_seen_in_the_definition() -> None:
    assert where(a_domain(instance=REBORN), disks=(PIVOTED,)) == "HOME"
    assert where(a_domain(state="off"), disks=(PIVOTED,)) == "HOME"


def test_overlay_that_is_gone_with_the_disk_on_its_base_is_merged() -> None:
    assert where(a_domain(instance=REBORN), overlay_bytes=None, disks=(PIVOTED,)) == "HOME"
    assert where(a_domain(instance=REBORN), overlay_bytes=None) == "NEVER_LEFT"


def test_guest_started_again_on_a_base_that_misses_the_overlay_is_lost() -> None:
    assert where(a_domain(instance=REBORN)) == "LOST"
    assert where(a_domain(state="off")) == "LOST"


def test_redefined_before_the_pivot_and_then_dead_is_not_taken_for_a_completed_pivot() -> None:
    """The definition named the base already when the pivot was intended: it proves nothing."""
    disk = run_disk(pivot_instance=BORN, followed=False)
    assert where(a_domain(instance=REBORN), disks=(disk,)) == "LOST"
    assert where(a_domain(state="off"), disks=(disk,)) == "LOST"


def test_transient_vm_started_again_on_the_base_proves_nothing() -> None:
    disk = a_disk(inactive_source=None)
    assert where(a_domain(disk, instance=REBORN, persistent=False), disks=(PIVOTED,)) == "LOST"


def test_disk_plugged_in_again_that_no_definition_names_proves_nothing() -> None:
    assert where(a_domain(a_disk(inactive_source=None), instance=REBORN), disks=(PIVOTED,)) == "LOST"


def test_definition_that_still_names_the_overlay_would_boot_on_old_data() -> None:
    """Live on the base, but the next start would use the overlay: it must not be removed, and somebody must know."""
    assert where(a_domain(a_disk(inactive_source=OVERLAY)), disks=(PIVOTED,)) == "LOST"


@pytest.mark.parametrize("seen", [a_domain(instance=REBORN), a_domain(state="off"), a_domain()])
def test_overlay_that_no_guest_has_written_to_holds_nothing(seen: DomainFacts) -> None:
    assert where(seen, overlay_bytes=EMPTY, phase=Phase.SNAPSHOTTING) == "NEVER_LEFT"


def test_overlay_that_cannot_be_looked_at_does_not_count_as_empty_later() -> None:
    assert where(a_domain(instance=REBORN), overlay_bytes=0, phase=Phase.COMMITTING) == "LOST"


# -- after every disk was seen at home --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "seen",
    [
        a_domain(instance=REBORN),
        a_domain(a_disk(inactive_source=None), instance=REBORN, persistent=False),
        a_domain(state="off"),
        a_domain(a_disk(target="vdb")),
        absent(),
    ],
    ids=["restarted", "transient restarted", "off", "unplugged", "absent"],
)
def test_what_happens_to_the_vm_after_the_pivot_does_not_strand_it(seen: DomainFacts) -> None:
    """Cleaning is only entered when every disk was seen on its base: the overlays are of no use from then on."""
    assert where(seen, overlay_bytes=EMPTY, phase=Phase.CLEANING) in ("NEVER_LEFT", "HOME")
    assert where(seen, phase=Phase.CLEANING, disks=(PIVOTED,)) == "HOME"


def test_disk_that_is_back_on_its_overlay_in_cleaning_is_seen() -> None:
    assert where(a_domain(on_overlay()), phase=Phase.CLEANING, disks=(PIVOTED,)) == "ON_OVERLAY"


def test_what_was_lost_stays_lost_in_cleaning() -> None:
    assert where(a_domain(instance=REBORN), phase=Phase.CLEANING, **over(Outcome.STRANDED)) == "LOST"
    assert where(absent(), phase=Phase.CLEANING, **over(Outcome.STRANDED)) == "LOST"


def test_definition_that_names_the_overlay_in_cleaning_keeps_it() -> None:
    domain = a_domain(a_disk(inactive_source=OVERLAY))
    assert where(domain, phase=Phase.CLEANING, disks=(PIVOTED,)) == "LOST"


# -- on something else ------------------------------------------------------------------------------------------------


def test_disk_that_was_unplugged_is_lost() -> None:
    assert where(a_domain(a_disk(target="vdb"))) == "LOST"


def test_vm_that_is_gone_with_its_definition_is_lost() -> None:
    assert where(absent()) == "LOST"


def test_foreign_layer_on_top_of_ours_is_lost() -> None:
    layers = (Image(OVERLAY, "qcow2", "file"), Image(BASE, "qcow2", "file"))
    assert where(a_domain(a_disk(source=SOMEBODY, backing=layers))) == "LOST"


def test_copy_of_the_disk_that_somebody_has_pivoted_to_is_lost() -> None:
    assert where(a_domain(a_disk(source=SOMEBODY))) == "LOST"


def test_overlay_of_another_attempt_is_not_ours() -> None:
    other = OVERLAY.replace(".1.vda", ".2.vda")
    assert where(a_domain(replace(on_overlay(), source=other))) == "LOST"


# -- on the overlay again, after a pivot that libvirt has lost ---------------------------------------------------------

T_PIVOT = 1000.0  # when the base was last written to as the pivot was intended; the file system's own time
LOST_PIVOT = run_disk(pivot_instance=BORN, followed=True, base_written_at=T_PIVOT)


def again(base_at: float, overlay_at: float, phase: Phase = Phase.PIVOTING, **domain: Any) -> str:
    """Return the position of a disk that is on our overlay after the QEMU of its pivot has gone."""
    run = a_run(phase, **BEGUN, disks=(LOST_PIVOT,))
    seen = store(overlay_bytes={"vda": WRITTEN}, written_at={BASE: base_at, OVERLAY: overlay_at})
    return position(view(run, facts(a_domain(on_overlay(), **domain), seen)), run.disks[0]).name


@pytest.mark.parametrize("domain", [{"state": "off"}, {"instance": REBORN}], ids=["off", "started again"])
@pytest.mark.parametrize("phase", [Phase.PIVOTING, Phase.COMMITTING, Phase.CLEANING])
def test_base_that_was_written_after_a_pivot_that_libvirt_lost_never_gets_the_old_overlay(
    domain: dict[str, Any], phase: Phase
) -> None:
    assert again(base_at=T_PIVOT + 600, overlay_at=T_PIVOT, phase=phase, **domain) == "LOST"


def test_overlay_that_the_guest_has_written_to_since_its_base_went_on_is_lost_too() -> None:
    assert again(base_at=T_PIVOT + 600, overlay_at=T_PIVOT + 700, instance=REBORN) == "LOST"


def test_qemu_that_died_before_its_pivot_wrote_both_images_to_the_last() -> None:
    assert again(base_at=T_PIVOT + 30.2, overlay_at=T_PIVOT + 30, state="off") == "OFF"
    assert again(base_at=T_PIVOT + 30, overlay_at=T_PIVOT + 30.2, instance=REBORN) == "ON_OVERLAY"


def test_idle_guest_that_died_before_its_pivot_is_taken_home() -> None:
    """The commit wrote the base long after the guest's last write: that says nothing of a pivot."""
    assert again(base_at=T_PIVOT, overlay_at=T_PIVOT - 3600, state="off") == "OFF"
    assert again(base_at=T_PIVOT, overlay_at=T_PIVOT + 3600, instance=REBORN) == "ON_OVERLAY"


def test_same_qemu_has_not_pivoted_whatever_the_times_say() -> None:
    assert again(base_at=T_PIVOT + 600, overlay_at=T_PIVOT) == "ON_OVERLAY"
