"""What the image is, looked at without running it."""

import json
import re
import tarfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from testbed.containers import OPERATOR, operator_image, operator_version

COMPILERS = ("usr/bin/gcc", "usr/bin/x86_64-linux-gnu-gcc", "usr/bin/ld", "usr/include/libvirt", "opt/build")
LEFTOVERS = ("var/lib/apt/lists", "var/cache/apt/archives", "root/.cache", "wheels", "src")
SECRETS = ("etc/pip.conf", "run/secrets")


@pytest.fixture(scope="module")
def archive() -> Path:
    return operator_image()


def blob(archive: Path, digest: str) -> Any:
    with tarfile.open(archive) as files:
        found = files.extractfile(f"blobs/{digest.replace(':', '/')}")
        assert found is not None
        return json.load(found)


@cache
def manifest(archive: Path) -> dict[str, Any]:
    with tarfile.open(archive) as files:
        index = files.extractfile("index.json")
        assert index is not None
        (entry,) = json.load(index)["manifests"]
    assert entry["annotations"]["org.opencontainers.image.ref.name"] == f"{OPERATOR}:{operator_version()}"
    return dict(blob(archive, entry["digest"]))


@cache
def names(archive: Path) -> frozenset[str]:
    """Return every link, and every file that is not empty, of all layers: also those that a later layer hides."""
    found: set[str] = set()
    for layer in manifest(archive)["layers"]:
        with tarfile.open(archive) as files:
            content = files.extractfile(f"blobs/{layer['digest'].replace(':', '/')}")
            with tarfile.open(fileobj=content) as members:
                found.update(each.name for each in members.getmembers() if each.size or each.issym() or each.islnk())
    return frozenset(found)


def test_runs_without_rights_unless_a_pod_asks_for_them(archive: Path) -> None:
    config = blob(archive, manifest(archive)["config"]["digest"])["config"]
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["vmbackup-operator"]
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    assert labels["version"] == operator_version()
    assert labels["licenses"] == "Apache-2.0"
    assert {"title", "description", "revision", "base.name"} <= set(labels)


@pytest.mark.parametrize("path", [*COMPILERS, *LEFTOVERS, *SECRETS])
def test_no_layer_holds_what_only_the_build_needs(archive: Path, path: str) -> None:
    assert [name for name in names(archive) if re.match(rf"{re.escape(path)}(-[0-9]+|/.+)?$", name)] == []


def test_all_of_libvirt_is_of_one_release(archive: Path) -> None:
    libraries = [name.rpartition(".so.")[2] for name in names(archive) if "/libvirt.so." in name]
    assert "0.9000.0" in libraries  # Debian 12's, as its qemu-img
    assert "usr/bin/qemu-img" in names(archive)
    assert [name for name in names(archive) if "/libvirtmod" in name]
