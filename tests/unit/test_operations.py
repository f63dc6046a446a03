"""docs/operations.md helps with everything that a user or an operator may meet, and with nothing that is not so."""

import re
import shlex
from pathlib import Path
from typing import get_args

import pytest

from vmbackup import cli, cli_host, inspection
from vmbackup.api import names
from vmbackup.api.conditions import Reason
from vmbackup.api.crd import RESOURCES
from vmbackup.api.journal import Run
from vmbackup.core.turns import Limits

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/operations.md").read_text()


def cells(column: int) -> list[str]:
    """Return one column of all tables, without their heads."""
    rows = [line.strip("|").split("|") for line in TEXT.splitlines() if line.startswith("|")]
    return [row[column].strip() for row in rows if len(row) > column]


def reasons_in_use() -> set[str]:
    """Return the reasons that the code gives."""
    sources = (path.read_text() for path in (ROOT / "operator/vmbackup").rglob("*.py"))
    used = {name for source in sources for name in re.findall(r"Reason\.([A-Z_]+)\b", source)}
    return {str(Reason[name]) for name in used if name in Reason.__members__}


def commands(program: str) -> list[list[str]]:
    """Return the words after a program, in fences and in backticks."""
    fences = re.findall(r"^```sh\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", TEXT)
    lines = [*(line for fence in fences for line in fence.splitlines()), *spans]
    found = [shlex.split(line.split(" | ")[0], comments=True) for line in lines if line.startswith(f"{program} ")]
    return [words[1:] for words in found]


def test_every_reason_is_helped_with() -> None:
    told = {reason for cell in cells(0) for reason in re.findall(r"`(\w+)`", cell)} | set(re.findall(r"`(\w+)`", TEXT))
    in_tables = {reason for cell in cells(0) for reason in re.findall(r"`(\w+)`", cell)}
    assert reasons_in_use() - told == set()
    for_locations = {"Ready", "NoNode", "OverlayOrphaned"}
    assert reasons_in_use() - in_tables - for_locations == set()


def test_every_help_says_what_to_do() -> None:
    assert [cell for cell in cells(2) if not cell] == []


def test_every_kind_of_finding_is_explained() -> None:
    assert set(get_args(inspection.Kind)) <= {cell.strip("`") for cell in cells(0)}


def test_our_commands_are_taken() -> None:
    ours = commands("vmbackup-operator")
    assert ["inspect"] in ours
    for words in ours:
        if words not in (["run"], ["restore"]):
            cli._parser().parse_args(words)


def test_options_of_our_processes_exist(capsys: pytest.CaptureFixture[str]) -> None:
    helps = []
    for role in ("controller", "agent"):
        with pytest.raises(SystemExit):
            cli._parser().parse_args([role, "--help"])
        helps.append(capsys.readouterr().out)
    told = set(re.findall(r"`(--[a-z-]+)`", TEXT))
    assert {option for option in told if option not in "".join(helps)} == set()


def test_kubectl_asks_for_what_exists() -> None:
    kinds = {resource.model.__name__.lower() for resource in RESOURCES}
    known = {name for resource in RESOURCES for name in (resource.plural, resource.short_name)} | kinds
    known |= {"leases", "lease", "events.events.k8s.io"}
    verbs = ("get", "describe", "patch", "delete")
    asked = []
    for words in commands("kubectl"):
        plain = [word for word in words if not word.startswith("-")]
        at = next((number for number, word in enumerate(plain) if word in verbs), None)
        if at is not None and at + 1 < len(plain) and "-f" not in words:
            asked.append(plain[at + 1].split("/")[0])
    assert len(asked) > 10
    assert set(asked) <= known


def test_names_and_times_are_those_of_the_code() -> None:
    assert f"`{names.FINALIZER}`" in TEXT
    assert f"{cli_host.STATE_DIRECTORY}/runs/<uid>.json" in TEXT
    assert names.overlay_name("<uid>", 0, "<disk>").replace("0", "<attempt>") in TEXT
    assert f"{names.LEASE_AGENT_PREFIX}node-1" in TEXT
    assert Limits().abandon_seconds == 15 * 60
    assert "15 minutes" in TEXT
    assert Run.model_fields["stall_seconds"].default == 5 * 60
