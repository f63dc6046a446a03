"""The catalog tells what is in a location, whole or not, and changes nothing."""

import io
import json
import os
from pathlib import Path

import pytest
from rich.console import Console

from unit.store.published import make_set
from vmbackup.catalog import Question, main
from vmbackup.store.catalog import entries


def ask(location: Path, **more: str | bool) -> tuple[int, str]:
    out = io.StringIO()
    code = main(Console(file=out, width=200), Question(location, **more))  # type: ignore[arg-type]
    return code, out.getvalue()


def test_sets_of_all_namespaces_with_what_they_say(location: Path) -> None:
    make_set(location, "one")
    code, text = ask(location)
    assert code == 0
    assert text.splitlines()[1].split()[:5] == ["team-a", "web", "2026-09-22T02:30:00.000Z", "set", "vda"]
    code, text = ask(location, as_json=True)
    (record,) = json.loads(text)
    assert record["manifest"]["backupUid"] == "one"
    assert ask(location, namespace="team-b")[1].startswith("There is no set")
    assert ask(location, vm="db")[1].startswith("There is no set")


def test_what_is_not_whole_is_told_and_left_alone(location: Path, tmp_path: Path) -> None:
    sets = {uid: make_set(location, uid) for uid in ("broken", "missing", "empty", "moved", "foreign", "held", "good")}
    (sets["broken"] / "manifest.json").write_text("{")
    (sets["missing"] / "vda.qcow2").unlink()
    (sets["empty"] / "vda.qcow2").write_text("")
    (location / "team-b" / "db").mkdir(parents=True)
    sets["moved"].rename(location / "team-b" / "db" / sets["moved"].name)
    (sets["foreign"] / "manifest.json").unlink()
    (sets["held"] / ".in-use.x").touch()
    for name in (".a.uid.1.partial", ".a.uid.trash", ".other"):
        (sets["good"].parent / name).mkdir()
    (sets["good"].parent / "link").symlink_to(sets["good"])
    before = sorted(os.walk(location))
    found = {entry.path.rpartition("/")[2].rpartition("-")[2]: entry for entry in entries(str(location))}
    states = {name: entry.state for name, entry in found.items()}
    assert states == {
        "broken": "damaged", "missing": "damaged", "empty": "damaged", "moved": "damaged", "foreign": "unknown",
        "held": "set", "good": "set", ".a.uid.1.partial": "unfinished", ".a.uid.trash": "trash", ".other": "unknown",
    }  # fmt: skip
    assert "vda.qcow2 is missing" in found["missing"].words
    assert "was it moved?" in found["moved"].words
    assert "a restore needs it" in found["held"].words
    assert ask(location)[0] == 1
    assert sorted(os.walk(location)) == before


@pytest.mark.parametrize("name", ["nowhere", "file", "link"])
def test_a_location_that_is_none_is_told(location: Path, name: str) -> None:
    (location / "file").touch()
    (location / "link").symlink_to(location)
    code, text = ask(location / name)
    assert code == 2
    assert str(location / name) in text.replace("\n", "")
