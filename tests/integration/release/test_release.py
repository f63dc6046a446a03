"""A release is made twice, by real helm, hatchling and cyclonedx-bom, and compared byte by byte."""

import importlib.util
import json
import os
import re
import subprocess
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from testbed.errors import TestbedError

ROOT = Path(__file__).resolve().parents[3]
MOMENT = 1_700_000_000


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release", ROOT / "dev/release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


release = load()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything but the image: that is tried by tests/e2e."""
    directory = tmp_path_factory.mktemp("release") / "first"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SOURCE_DATE_EPOCH", str(MOMENT))
        release.make_all(directory, image=False)
    return directory


def test_second_run_gives_the_same_bytes(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another directory, another umask, another time zone and language, another hash seed."""
    for name, value in (
        ("SOURCE_DATE_EPOCH", str(MOMENT)),
        ("TZ", "Asia/Tokyo"),
        ("LC_ALL", "C"),
        ("PYTHONHASHSEED", "7"),
    ):
        monkeypatch.setenv(name, value)
    before = os.umask(0o077)
    try:
        release.make_all(tmp_path / "second", image=False)
    finally:
        os.umask(before)
    first = {path.name: path.read_bytes() for path in made.iterdir()}
    second = {path.name: path.read_bytes() for path in (tmp_path / "second").iterdir()}
    assert sorted(first) == sorted(second)
    assert [name for name, content in first.items() if content != second[name]] == []


def test_checksums_are_those_of_all_files(made: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=made, check=True, capture_output=True)
    listed = {line.split()[1] for line in (made / "SHA256SUMS").read_text().splitlines()}
    assert listed == {path.name for path in made.iterdir()} - {"SHA256SUMS"}
    assert len(listed) == 3


def test_bill_of_materials_lists_every_locked_requirement_with_its_hashes(made: Path) -> None:
    (path,) = made.glob("*.cdx.json")
    bill = json.loads(path.read_text())
    locked = dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", (ROOT / "requirements/run.txt").read_text(), re.MULTILINE))
    assert {part["name"]: part["version"] for part in bill["components"]} == locked
    assert all(part["externalReferences"][0]["hashes"] for part in bill["components"])
    assert (bill["metadata"]["component"]["name"], bill["metadata"]["component"]["version"]) == (
        "vmbackup-operator",
        release.version(),
    )


def test_chart_is_whole_and_names_nobody(made: Path) -> None:
    (path,) = made.glob("*.tgz")
    with tarfile.open(path) as chart:
        members = chart.getmembers()
        there = {member.name.removeprefix("vmbackup-operator/") for member in members}
        assert {"Chart.yaml", "values.yaml", "values.schema.json", "templates/agent/policy.yaml"} <= there
        assert {(member.mtime, member.mode, member.uid, member.uname) for member in members} == {(MOMENT, 0o644, 0, "")}
    helm = str(release.tool("helm"))
    subprocess.run([helm, "template", "x", str(path)], check=True, capture_output=True)


def test_wheel_holds_the_package_and_nothing_else(made: Path) -> None:
    (path,) = made.glob("*.whl")
    names = zipfile.ZipFile(path).namelist()
    assert {name.split("/")[0] for name in names} == {"vmbackup", f"vmbackup_operator-{release.version()}.dist-info"}
    assert "vmbackup/cli.py" in names


def test_release_of_a_tree_with_changes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "_said", lambda *_words: " M operator/vmbackup/cli.py")
    with pytest.raises(release.ReleaseError, match=r"commit or remove these first.*\n.*cli\.py"):
        release.check_tree()


def test_missing_helm_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_tool(name: str) -> Path:
        raise TestbedError(f"{name} must be built and Go is missing")

    monkeypatch.setattr(release, "tool", no_tool)
    with pytest.raises(release.ReleaseError, match="the chart needs helm: helm must be built"):
        release.make_chart(tmp_path, MOMENT)


def test_chart_of_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Chart.yaml").write_text("version: 9.9.9\nappVersion: 9.9.9\n")
    monkeypatch.setattr(release, "CHART", tmp_path)
    with pytest.raises(release.ReleaseError, match=r"pyproject\.toml says .*, version of the chart 9\.9\.9"):
        release.version()
