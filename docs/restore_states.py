"""The table of a restore in words: effects are functions here, told by what they hold."""

from collections.abc import Callable
from inspect import getclosurevars, unwrap
from typing import Any

from vmbackup.api.restore import RestorePhase
from vmbackup.api.vmbackup import Outcome
from vmbackup.core import restore_facts, steps
from vmbackup.core.restore import PRELUDE, TABLE
from vmbackup.core.restore_path import after, success_at_end
from vmbackup.core.restore_report import DOING
from vmbackup.core.restore_rules import Rule

HEAD = """\
<!-- Generated from the tables in operator/vmbackup/core by `make docs`: do not edit. -->
# Every state of a restore, row by row

Which phases a target takes is told at the top of `operator/vmbackup/core/restore.py`, and what each target does in
[restore.md](restore.md). In every phase the first row that holds is taken. An act is written into the node journal
before it is done; one act is done per turn. There are no attempts: what fails goes through Discarding, which undoes by
what it sees.
"""
SAID = {  # effects that stand alone
    "pulling": "look again after 0.5 s",
    "rest_after_work": "rest 1, 2, 4 … 30 s, then try again",
}


def describe() -> str:
    """Return the tables as Markdown."""
    parts = [HEAD, section("In every phase, before its own rows", "these rows decide how it will end", PRELUDE)]
    parts += [section(str(phase), DOING.get(phase, "over"), rules) for phase, rules in TABLE.items()]
    return "\n".join(parts)


def section(title: str, subtitle: str, rules: tuple[Rule, ...]) -> str:
    lines = [f"## {title}", "", f"{subtitle[0].upper()}{subtitle[1:]}.", "", "| seen | what follows |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {rule.seen} | {words(rule.effect)} |" for rule in rules), ""])


def words(effect: Callable[..., Any]) -> str:  # noqa: PLR0911 - a table of effects
    """Return what an effect does. Raises: KeyError: one that this does not know."""
    maker = effect.__qualname__.partition(".")[0]
    held = getclosurevars(unwrap(effect)).nonlocals
    match maker:
        case "go":
            return f"go to {phase(held['to'])}{noted(held['note'])}"
        case "fail":
            return f"outcome Failed, {reason(held['failure'])}; go to {phase(held['to'])}"
        case "no_heartbeat":
            return f"outcome Failed, `NoHeartbeat`; go to {phase(RestorePhase.DISCARDING)}"
        case "act":
            return f"do `{step(held['step'])}`"
        case "write":
            name = held["note"].__name__
            written = "write it down" if name == "<lambda>" else f"write down: {name.replace('_', ' ')}"
            return noted(held["note"]).removeprefix("; ") or written
        case "wait":
            return f"look again after {held['seconds']:g} s, or when something happens"
        case "retry":
            return "rest 1, 2, 4 … 30 s, then try again"
        case "<lambda>":
            return "nothing"
    return SAID[maker]


def phase(to: Any) -> str:
    return "the next phase of the target" if to is after else f"**{to}**"


def step(make: Callable[..., Any]) -> str:
    """Return the name of the step that a row's function makes, or makes by a function that it calls."""
    made = getattr(make, "__annotations__", {}).get("return")
    if made is not None:
        return str(getattr(made, "__name__", made))
    found = [name for name in make.__code__.co_names if hasattr(restore_facts, name) or hasattr(steps, name)]
    return found[0] if found else str(getclosurevars(make).nonlocals["start"].__name__)


def reason(failure: Callable[..., Any]) -> str:
    held = getclosurevars(failure).nonlocals.get("reason")
    return f"`{held}`" if held else "the reason of the act"


def noted(note: Callable[..., Any]) -> str:
    """Return the outcome that a note fixes, empty without one."""
    if note is success_at_end:
        return "; outcome Succeeded, when nothing but tidying up is left"
    return "".join(f"; outcome {Outcome[name]}" for name in note.__code__.co_names if name in Outcome.__members__)
