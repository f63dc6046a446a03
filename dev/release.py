"""The artifacts of a release, the same bytes from the same commit: `python dev/release.py DIRECTORY`.

vmbackup-operator-<version>.tgz                  the chart
vmbackup-operator-<version>-image.tar            the image, an OCI archive
vmbackup_operator-<version>-py3-none-any.whl     the wheel that is in the image
vmbackup-operator-<version>.cdx.json             CycloneDX SBOM of the locked requirements
SHA256SUMS                                       what is signed (docs/release.md)
"""

import argparse
import gzip
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

from testbed.containers import operator_image
from testbed.errors import TestbedError
from testbed.tools import tool

ROOT = Path(__file__).resolve().parent.parent
NAME = "vmbackup-operator"
CHART = ROOT / "helm" / NAME
SUMS = "SHA256SUMS"
FILE_MODE = 0o644  # whatever the umask of the checkout was


class ReleaseError(Exception):
    """There is no release; the message says what to do."""


def version() -> str:
    """Return the version of the project. Raises ReleaseError: the chart says another one."""
    ours = str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])
    text = (CHART / "Chart.yaml").read_text()
    for key in ("version", "appVersion"):
        found = re.search(rf"^{key}: *\"?([^\"\s]+)", text, re.MULTILINE)
        if not found or found[1] != ours:
            raise ReleaseError(f"pyproject.toml says {ours}, {key} of the chart {found and found[1]}: make them equal")
    return ours


def source_date() -> int:
    """Return the moment that every file of the release bears: SOURCE_DATE_EPOCH, else the last commit's."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    return int(given) if given else int(_said("git", "log", "-1", "--format=%ct"))


def check_tree() -> None:
    """Raises ReleaseError: what would be released is not what is committed."""
    changed = _said("git", "status", "--porcelain")
    if changed:
        raise ReleaseError(f"commit or remove these first, a release is made of a commit:\n{changed}")


def make_chart(directory: Path, moment: int) -> Path:
    """Package the chart. Raises ReleaseError: there is no helm, or it refuses the chart."""
    try:
        helm = tool("helm")
    except TestbedError as error:
        raise ReleaseError(f"the chart needs helm: {error}") from error
    with tempfile.TemporaryDirectory() as scratch:
        _call(str(helm), "lint", "--quiet", str(CHART))
        _call(str(helm), "package", str(CHART), "--destination", scratch)
        (packed,) = Path(scratch).glob("*.tgz")
        path = directory / packed.name
        path.write_bytes(settled(packed.read_bytes(), moment))
    return path


def settled(packed: bytes, moment: int) -> bytes:
    """Return a .tgz with the same files in a fixed order, owned by root and of one moment: helm notes when it ran."""
    plain, result = io.BytesIO(), io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as old,
        tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as new,
    ):
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            fresh = tarfile.TarInfo(member.name)
            fresh.size, fresh.mode, fresh.mtime = member.size, FILE_MODE, moment
            new.addfile(fresh, old.extractfile(member))
    with gzip.GzipFile(filename="", fileobj=result, mode="wb", mtime=moment) as stream:
        stream.write(plain.getvalue())
    return result.getvalue()


def make_wheel(directory: Path, moment: int) -> Path:
    _call(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory), moment=moment)
    (path,) = directory.glob("*.whl")
    return path


def make_sbom(directory: Path, moment: int) -> Path:
    """Write what the locked requirements bring along. Debian's packages in the image are not in it."""
    path = directory / f"{NAME}-{version()}.cdx.json"
    options = ["--pyproject", "pyproject.toml", "--output-reproducible", "--of", "JSON", "--sv", "1.6", "--validate"]
    command = [sys.executable, "-m", "cyclonedx_py", "requirements", *options, "-o", str(path), "requirements/run.txt"]
    _call(*command, moment=moment)
    return path


def make_image(directory: Path) -> Path:
    try:
        made = operator_image()
    except TestbedError as error:
        raise ReleaseError(f"the image could not be built: {error}") from error
    path = directory / f"{NAME}-{version()}-image.tar"
    shutil.copyfile(made, path)
    return path


def write_sums(directory: Path) -> Path:
    """Write the digests of all files there, in the form that `sha256sum -c` reads."""
    path = directory / SUMS
    files = sorted(each for each in directory.iterdir() if each != path)
    path.write_text("".join(f"{_digest(each)}  {each.name}\n" for each in files))
    return path


def make_all(directory: Path, *, image: bool) -> None:
    """Fill an empty directory with a release. Raises ReleaseError, FileExistsError."""
    version()
    moment = source_date()
    directory.mkdir(parents=True)
    make_chart(directory, moment)
    make_wheel(directory, moment)
    make_sbom(directory, moment)
    if image:
        make_image(directory)
    write_sums(directory)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _said(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def _call(*command: str, moment: int | None = None) -> None:
    """Run a program in the checkout. Raises ReleaseError with its words."""
    environment = os.environ | ({"SOURCE_DATE_EPOCH": str(moment)} if moment is not None else {})
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReleaseError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the artifacts of a release.")
    parser.add_argument("directory", type=Path, help="where they go; must not exist")
    parser.add_argument("--no-image", action="store_true", help="all but the image, to compare two runs quickly")
    parser.add_argument("--any-tree", action="store_true", help="also from a tree with changes: no release")
    options = parser.parse_args()
    try:
        if not options.any_tree:
            check_tree()
        make_all(options.directory, image=not options.no_image)
    except FileExistsError:
        print(f"release: {options.directory} exists: remove it first, nothing is mixed", file=sys.stderr)
        return 1
    except ReleaseError as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    print((options.directory / SUMS).read_text(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
