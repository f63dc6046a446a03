"""Writes what docs/ says of the states, out of the tables in operator/vmbackup/core: `make docs`.

    docs/states-push.svg, docs/states-snapshot.svg   the ways between the phases
    docs/states.md, docs/states-restore.md           every row of every phase

tests/unit/test_docs.py fails when a file lags behind its table.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import restore_states
from state_svg import draw

from vmbackup.api.vmbackup import Method, Outcome
from vmbackup.core import steps
from vmbackup.core.decide import POINT_IN_TIME, PRELUDE, TABLES
from vmbackup.core.report import DOING
from vmbackup.core.rules import Act, Effect, End, Fail, Go, Retry, Rule, Wait, Write

HERE = Path(__file__).resolve().parent
WHERE = {Method.PUSH: "core/push.py", Method.SNAPSHOT: "core/snapshot.py"}
HEAD = """\
<!-- Generated from the tables in operator/vmbackup/core by `make docs`: do not edit. -->
# Every state, row by row

The diagrams of these tables are in [architecture.md](architecture.md). In every phase the first row that holds is
taken. An act is written into the node journal before it is done; one act is done per turn. *Heals* means that a new
attempt is made, at most {attempts} in all and only before the deadline.
"""


def files() -> dict[str, str]:
    """Return the text of every generated file by name."""
    drawings = {f"states-{method.lower()}.svg": draw(table, DOING) for method, table in TABLES.items()}
    return {**drawings, "states.md": describe(), "states-restore.md": restore_states.describe()}


def describe() -> str:
    """Return the tables as Markdown; phases that both methods share are told once."""
    from vmbackup.core.ending import ATTEMPTS_MAX  # noqa: PLC0415 - read where it is told

    parts = [HEAD.format(attempts=ATTEMPTS_MAX)]
    parts.append(_section("In every phase, before its own rows", "these rows stand in `core/decide.py`", PRELUDE))
    told: set[str] = set()
    for method, table in TABLES.items():
        for phase, rules in table.items():
            others = [TABLES[other].get(phase) for other in TABLES if other is not method]
            shared = all(other is not None and _rows(other) == _rows(rules) for other in others)
            title = str(phase) if shared else f"{phase} ({method})"
            if title not in told:
                told.add(title)
                where = "both methods" if shared else f"`{WHERE[method]}`"
                frozen = "; the guest may be frozen" if phase in POINT_IN_TIME else ""
                parts.append(_section(title, f"{DOING.get(phase, 'over')}; {where}{frozen}", rules))
    return "\n".join(parts)


def _section(title: str, subtitle: str, rules: tuple[Rule, ...]) -> str:
    lines = [f"## {title}", "", f"{subtitle[0].upper()}{subtitle[1:]}.", "", "| seen | what follows |", "| --- | --- |"]
    return "\n".join([*lines, *_rows(rules), ""])


def _rows(rules: tuple[Rule, ...]) -> list[str]:
    return [f"| {rule.seen} | {_words(rule.effect)} |" for rule in rules]


def _words(effect: Effect) -> str:  # noqa: PLR0911 - a table of effects
    match effect:
        case Go(to=to):
            return f"go to **{to}**"
        case Fail(failure=failure, to=to, outcome=outcome):
            return f"outcome {outcome}, {_reason(failure)}; go to **{to}**"
        case Act(step=step):
            return f"do `{_step(step)}`"
        case Write(note=note):
            return _noted(note)
        case Wait(seconds=seconds):
            return f"look again after {seconds:g} s, or when something happens"
        case Retry():
            return "rest 1, 2, 4 … 30 s, then try again"
        case End():
            return "nothing"


def _step(make: Callable[..., Any]) -> str:
    """Return the name of the step that a row's function makes: its return type, or the class that a lambda calls."""
    made = inspect.get_annotations(make).get("return")
    if made is not None:
        return str(made.__name__)
    return next(name for name in make.__code__.co_names if hasattr(steps, name))


def _reason(failure: Callable[..., Any]) -> str:
    """Return the reason that `because()` or `last_error()` holds."""
    held = inspect.getclosurevars(failure).nonlocals
    if "message" not in held:
        return f"the reason of the act, else `{held['reason']}`"
    return f"`{held['reason']}`{' (heals)' if held['heals'] else ''}"


def _noted(note: Callable[..., Any]) -> str:
    """Return what a note writes down: its name, or the outcome that a nameless one fixes."""
    code = note.__code__
    outcome = next((name for name in code.co_names if name in Outcome.__members__), "")
    if code.co_name != "<lambda>":
        return f"write down: {code.co_name.strip('_').replace('_', ' ')}"
    return f"outcome {Outcome[outcome]}; the way home follows" if outcome else "write it down"


def main() -> None:
    for name, text in files().items():
        (HERE / name).write_text(text)
        print(f"docs/{name}")


if __name__ == "__main__":
    main()
