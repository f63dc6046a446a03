"""SECURITY.md promises a test for every threat: each of them exists, and every attack is told there."""

import re

from unit.documents import ROOT, sections, table

DEFINED = re.compile(r"^def (test_\w+)", re.MULTILINE)


def defined(folder: str) -> set[str]:
    return {name for path in (ROOT / folder).rglob("*.py") for name in DEFINED.findall(path.read_text())}


def rows() -> list[list[str]]:
    return table(sections((ROOT / "SECURITY.md").read_text())["Threats, defences, tests"])


def test_every_threat_has_tests_that_exist() -> None:
    assert len(rows()) > 20
    named = {row[0]: set(re.findall(r"`(test_\w+)`", row[2])) for row in rows()}
    assert [threat for threat, tests in named.items() if not tests] == []
    assert set().union(*named.values()) - defined("tests") == set()


def test_every_room_of_attacks_is_used() -> None:
    told = set(re.findall(r"`(test_\w+)`", "\n".join(row[2] for row in rows())))
    files = (ROOT / "tests/attack").rglob("test_*.py")
    assert [path.name for path in files if not told & set(DEFINED.findall(path.read_text()))] == []
