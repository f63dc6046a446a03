"""What is decided of a snapshot run whose VM is on its overlay, or was."""

from dataclasses import replace
from typing import Any

from unit.core.scene import (
    BORN,
    T0,
    WRITTEN,
    a_domain,
    a_run,
    facts,
    on_overlay,
    run_disk,
    store,
)
from vmbackup.api.vmbackup import Phase
from vmbackup.core.decide import decide
from vmbackup.core.facts import DomainFacts, LastAct, StoreFacts, Wishes
from vmbackup.core.rules import Move

AWAY = a_domain(on_overlay())
THERE = {"vda": WRITTEN}
PIVOTED = (run_disk(copied=True, pivot_instance=BORN, followed=True),)
COPIED = (run_disk(copied=True),)


def decided(
    phase: Phase,
    domain: DomainFacts,
    seen: StoreFacts | None = None,
    last: LastAct | None = None,
    *,
    wishes: Wishes | None = None,
    still: float = 0.0,
    **run: Any,
) -> Move:
    at_hand = facts(domain, seen or store(overlay_bytes=THERE), last=last, wishes=wishes or Wishes())
    changes = {"began": True, "overlay_at": T0, **run}
    return decide(a_run(phase, **changes), replace(at_hand, still_seconds=still), T0 + 10)


def end(move: Move) -> str:
    """Return where a move leads: phase, and the reason when it fixes the outcome."""
    reason = move.run.failure.reason if move.run.failure else ""
    return f"{move.run.phase} {reason}".strip()
