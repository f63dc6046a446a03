"""What is generated is as its source says."""

from pathlib import Path

from vmbackup.api import crd

ROOT = Path(__file__).resolve().parents[2]


def test_crds_match_models() -> None:
    on_disk = {path.name: path.read_text() for path in (ROOT / "crds").iterdir()}
    generated = crd.files()
    stale = sorted(name for name in on_disk | generated if on_disk.get(name) != generated.get(name))
    assert not stale, f"crds/ lags behind the models ({', '.join(stale)}): run `make crds`"
