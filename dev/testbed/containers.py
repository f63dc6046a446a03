"""Container images without a registry: the base made by mmdebstrap, the rest built by buildah.

`python -m testbed.containers DIRECTORY` leaves the operator's image there, as an archive.
"""

import configparser
import datetime
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from testbed.cache import cache_directory, say
from testbed.errors import TestbedError
from testbed.namespace import UNSHARE
from testbed.roots import archives

REPOSITORY = Path(__file__).resolve().parent.parent.parent
OPERATOR = "localhost/vmbackup-operator"
OPERATOR_FILE = REPOSITORY / "operator" / "Dockerfile"
PAUSE = "localhost/pause:1"
LAUNCHER = "localhost/vmbackup-launcher:1"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
INDEX_SETTINGS = ("index-url", "extra-index-url", "trusted-host", "proxy")
KEEP_LAYERS = 300  # of earlier builds; a change of our code makes about ten
KEEP = 3  # archives of one image: of this checkout, and of others that are being tested
# What Debian's own slim images leave out.
LEFT_OUT = ("/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*", "/usr/share/doc/*")


@dataclass(frozen=True)
class Recipe:
    """An image to build. `context`: the directory that COPY sees. `arguments`: of the build."""

    name: str
    dockerfile: Path
    context: Path
    arguments: Mapping[str, str] = field(default_factory=dict)


def operator_version() -> str:
    """Return the version of the checkout."""
    match = re.search(r'^version = "(.+)"', (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
    assert match
    return match[1]


def operator_image() -> Path:
    """Return an archive of the operator's image, built from this checkout.

    Raises TestbedError when it cannot be built.
    """
    version = operator_version()
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    revision = found.stdout.strip() or "unknown"
    arguments = {"VERSION": version, "REVISION": revision}
    return archive(Recipe(f"{OPERATOR}:{version}", OPERATOR_FILE, REPOSITORY, arguments))


def pause_image() -> Path:
    """Return an archive of the image that a node's pods are held by."""
    with tempfile.TemporaryDirectory(prefix="vmbackup-pause-") as context:
        shutil.copy("/bin/busybox", context)
        return archive(Recipe(PAUSE, REPOSITORY / "dev/images/pause/Dockerfile", Path(context)))


def launcher_image() -> Path:
    """Return an archive of the image that stands in for virt-launcher."""
    directory = REPOSITORY / "dev/images/launcher"
    return archive(Recipe(LAUNCHER, directory / "Dockerfile", directory))


def archive(recipe: Recipe) -> Path:
    """Build an image, from the layers of earlier builds where nothing changed, and return an OCI archive of it.

    Raises TestbedError when buildah fails.
    """
    directory = cache_directory() / "images"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        base = _base(recipe.dockerfile)
        if len(_buildah("images", "--all", "--quiet").split()) > KEEP_LAYERS:
            _buildah("rmi", "--all", "--force")
        if base:
            _make_base(base)
        identity = _build(recipe, base)
        stem = recipe.name.rpartition("/")[2].partition(":")[0]
        path = directory / f"{stem}-{identity[:12]}.tar"
        if not path.exists():
            partial = directory / ".partial"
            partial.unlink(missing_ok=True)
            _buildah("push", "--quiet", identity, f"oci-archive:{partial}:{recipe.name}")
            partial.rename(path)
        path.touch()
        newest_first = sorted(directory.glob(f"{stem}-*.tar"), key=lambda each: -each.stat().st_mtime)
        for old in newest_first[KEEP:]:
            old.unlink()
    return path


def _base(dockerfile: Path) -> str | None:
    match = re.search(r"^ARG BASE=(\S+)", dockerfile.read_text(), re.MULTILINE)
    return match[1] if match else None


def _build(recipe: Recipe, base: str | None) -> str:
    """Return the image's ID."""
    # The date of the base image is the date of all files, so that the same sources make the same image.
    day = re.search(r"-(\d{8})-", base) if base else None
    moment = datetime.datetime.strptime(day[1] if day else "20260101", "%Y%m%d").replace(tzinfo=datetime.UTC)
    ignore = recipe.dockerfile.with_name(f"{recipe.dockerfile.name}.dockerignore")
    with tempfile.TemporaryDirectory(prefix="vmbackup-build-") as scratch:
        identity = Path(scratch) / "id"
        _buildah(
            "build",
            "--quiet",
            "--isolation=chroot",
            "--layers",
            "--pull-never",
            f"--timestamp={int(moment.timestamp())}",
            f"--iidfile={identity}",
            f"--file={recipe.dockerfile}",
            f"--tag={recipe.name}",
            *([f"--ignorefile={ignore}"] if ignore.exists() else []),
            *_pip_secrets(Path(scratch)),
            *(f"--build-arg={name}={value}" for name, value in recipe.arguments.items()),
            str(recipe.context),
        )
        return identity.read_text().strip().removeprefix("sha256:")


def _pip_secrets(directory: Path) -> list[str]:
    """Return the flags that give a build this machine's way to its package index; nothing of it stays in the image."""
    settings = configparser.RawConfigParser()
    settings.read(["/etc/pip.conf", Path.home() / ".pip/pip.conf", Path.home() / ".config/pip/pip.conf"])
    given = dict(settings["global"]) if settings.has_section("global") else {}
    given |= {
        name[4:].lower().replace("_", "-"): value for name, value in os.environ.items() if name.startswith("PIP_")
    }
    lines = [f"{name} = {given[name]}" for name in INDEX_SETTINGS if name in given]
    certificates = []
    if CERTIFICATES.exists():
        lines.append("cert = /run/secrets/ca.crt")
        certificates = [f"--secret=id=ca.crt,src={CERTIFICATES}"]
    (directory / "pip.conf").write_text("\n".join(["[global]", *lines, ""]))
    return [f"--secret=id=pip.conf,src={directory / 'pip.conf'}", *certificates]


def _make_base(name: str) -> None:
    """Make the image `name` (…/debian:<suite>-<date>-slim) from Debian's archive, as if it had been pulled."""
    if name in _buildah("images", "--format", "{{.Name}}:{{.Tag}}").splitlines():
        return
    suite = name.rpartition(":")[2].partition("-")[0]
    say(f"making the base image {name} ...")
    with tempfile.TemporaryDirectory(prefix="vmbackup-base-", dir="/var/tmp") as directory:
        tar = Path(directory) / "base.tar"
        left_out = [f"--dpkgopt=path-exclude={path}" for path in LEFT_OUT]
        # Merged from the beginning, as Debian's own are: else `usrmerge` brings all of Perl.
        merged = ["--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", "--include=usr-is-merged"]
        command = ["mmdebstrap", "--variant=minbase", *merged, *left_out]
        command.append("--dpkgopt=path-include=/usr/share/doc/*/copyright")
        _run([*command, suite, str(tar), *archives(suite)])
        container = _buildah("from", "scratch").strip()
        _buildah("add", "--quiet", container, str(tar), "/")
        _buildah("config", "--cmd", "bash", container)
        _buildah("commit", "--quiet", "--rm", container, name)


def _buildah(*arguments: str) -> str:
    """Run buildah on storage in the cache; its mounts and processes end with it.

    Raises TestbedError when it fails.
    """
    storage = cache_directory() / "images" / "storage"
    # What buildah knows about running containers is nothing that the next one should believe.
    inside = 'mount -t tmpfs tmpfs /run && exec buildah "$@"'
    flags = ("--root", str(storage), "--runroot", "/run/buildah", "--storage-driver", "overlay")
    return _run([*UNSHARE, "sh", "-c", inside, "buildah", *flags, *arguments])


def _run(command: list[str]) -> str:
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"TMPDIR": "/var/tmp"}
    )
    if result.returncode:
        said = f"{result.stdout}\n{result.stderr}"[-3000:]
        raise TestbedError(f"{' '.join(command[:3])} … {command[-1]} failed:\n{said}")
    return result.stdout


def main() -> int:
    """Leave the operator's image in the directory that was named."""
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    try:
        made = operator_image()
    except TestbedError as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1
    path = directory / f"vmbackup-operator-{operator_version()}-image.tar"
    shutil.copy(made, path)
    print(f"{path} ({path.stat().st_size / 1e6:.0f} MB), image {OPERATOR}:{operator_version()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
