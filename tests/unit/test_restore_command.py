"""`vmbackup-operator restore` refuses in words what it cannot begin with."""

import json
from pathlib import Path

import pytest

from vmbackup.cli import main

REQUEST = {
    "apiVersion": "vmbackup.dev/v1alpha1",
    "kind": "VMRestore",
    "metadata": {"name": "back"},
    "spec": {"source": {"backup": "nightly"}, "target": {"disks": {}}},
}


def call(place: Path, text: str) -> int:
    request = place / "request.yaml"
    request.write_text(text)
    words = ["restore", "-f", str(request), "--location", str(place), "--images", str(place)]
    return main([*words, "--state", str(place / "state"), "--connect", "test:///default"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a list", "holds no VMRestore"),
        ("kind: [", "while parsing"),
        ("\x00", "special characters are not allowed"),
        (json.dumps(REQUEST | {"kind": "VMBackup"}), "holds no VMRestore"),
        (json.dumps(REQUEST | {"metadata": "back"}), "metadata: must be a mapping"),
        (json.dumps(REQUEST | {"metadata": {"name": "b" * 64}}), "metadata.name: at most 63 characters"),
        (json.dumps(REQUEST | {"spec": {}}), "spec.source: Field required"),
    ],
)
def test_nonsense_is_refused_in_words(
    tmp_path: Path, text: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(tmp_path, text) == 2
    assert words in " ".join(capsys.readouterr().out.split())


def test_state_directory_that_cannot_be_made_ends_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "state").write_text("no directory")
    assert call(tmp_path, json.dumps(REQUEST)) == 2
    assert "cannot be used" in " ".join(capsys.readouterr().out.split())
