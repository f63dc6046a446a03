"""The programs of a cluster: taken from the machine where they fit, else built from the go.mod files in dev/."""

import fcntl
import functools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from testbed.cache import cache_directory, remove, say
from testbed.errors import TestbedError

DEVELOPMENT = Path(__file__).resolve().parent.parent
# The oldest version that is taken from PATH; what is not listed is always built, because a distribution sets it up
# for itself. kubectl supports servers one minor version away only.
OLDEST = {
    "etcd": (3, 4),
    "kube-apiserver": (1, 32),
    "kube-controller-manager": (1, 32),
    "kube-scheduler": (1, 32),
    "kubelet": (1, 32),
    "kubectl": (1, 35),
    "helm": (4, 0),
}
VERSION_ARGUMENTS = {"kubectl": ("version", "--client"), "helm": ("version",)}


@dataclass(frozen=True)
class Module:
    """A directory of dev/ with a go.mod. `versions`: the modules whose versions name what is built."""

    name: str
    versions: tuple[str, ...]
    programs: dict[str, str]
    tags: str = ""

    @property
    def directory(self) -> Path:
        return DEVELOPMENT / self.name

    def version(self) -> str:
        """Return what is built, such as v1.36.3. Raises TestbedError when go.mod does not say."""
        text = (self.directory / "go.mod").read_text()
        found = [
            re.search(rf"^\s*(?:require )?{re.escape(module)} (v\S+)", text, re.MULTILINE) for module in self.versions
        ]
        if not all(found):
            raise TestbedError(f"{self.directory}/go.mod lacks one of {', '.join(self.versions)}: restore the file.")
        return "-".join(match[1] for match in found if match)

    def link_flags(self) -> str:
        """Return flags that leave debugging out and, for Kubernetes, tell the programs their version."""
        flags = ["-s", "-w"]
        if self.name == "kubernetes":
            version = self.version()
            major, minor = version.removeprefix("v").split(".")[:2]
            stamps = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
            flags += [f"-X k8s.io/component-base/version.{key}={value}" for key, value in stamps.items()]
        return " ".join(flags)


def _kubernetes(*names: str) -> dict[str, str]:
    return {name: f"k8s.io/kubernetes/cmd/{name}" for name in names}


def _containerd(*names: str) -> dict[str, str]:
    return {name: f"github.com/containerd/containerd/v2/cmd/{name}" for name in names}


MODULES = (
    Module(
        "kubernetes",
        ("k8s.io/kubernetes",),
        _kubernetes("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl"),
    ),
    Module(
        "containerd",
        ("github.com/containerd/containerd/v2", "github.com/opencontainers/runc"),
        {**_containerd("containerd", "containerd-shim-runc-v2", "ctr"), "runc": "github.com/opencontainers/runc"},
        tags="no_btrfs,seccomp",  # btrfs would need its headers; seccomp: pods ask for RuntimeDefault
    ),
    Module("helm", ("helm.sh/helm/v4",), {"helm": "helm.sh/helm/v4/cmd/helm"}),
)


@functools.cache
def tool(name: str) -> Path:
    """Return the path of a program: from KUBEBUILDER_ASSETS, else from PATH when new enough, else built.

    Raises TestbedError when it is not to be had.
    """
    return _found(name) or _build(name)


def build(*names: str) -> None:
    """Make sure that `tool` finds all of these at once: what must be built is built together, which saves minutes.

    Raises TestbedError when one is not to be had.
    """
    missing = [name for name in names if not _found(name)]
    for module in MODULES:
        here = [name for name in missing if name in module.programs]
        if here:
            _build(*here)
    for name in names:
        tool(name)


def _found(name: str) -> Path | None:
    """Return a program that need not be built, or was built before."""
    if name not in OLDEST and not any(name in module.programs for module in MODULES):
        raise TestbedError(f"Unknown tool {name!r}; known are {', '.join(_known())}.")
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets and os.access(Path(assets) / name, os.X_OK):
        return Path(assets) / name
    on_path = shutil.which(name)
    if on_path and name in OLDEST and _version(on_path) >= OLDEST[name]:
        return Path(on_path)
    if name == "etcd":
        raise TestbedError("etcd 3.4 or later is missing: run dev/bootstrap.sh (Debian package etcd-server).")
    built = _built_directory(_module(name)) / name
    return built if built.exists() else None


def _build(*names: str) -> Path:
    """Build programs of one module into the cache, where they are not there yet; return the path of the first."""
    module = _module(names[0])
    directory = _built_directory(module)
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = [name for name in names if not (directory / name).exists()]
        if missing:
            partial = directory / ".partial"
            remove(partial)
            partial.mkdir()
            try:
                _run_go(module, missing, partial)
                for name in missing:
                    (partial / name).rename(directory / name)
            finally:
                remove(partial)
    return directory / names[0]


def _run_go(module: Module, names: list[str], directory: Path) -> None:
    what = f"{', '.join(names)} {module.version()}"
    go = shutil.which("go")
    if not go:
        raise TestbedError(
            f"{what} must be built and Go is missing: run dev/bootstrap.sh, or set "
            "KUBEBUILDER_ASSETS to a directory with etcd, kube-apiserver and kubectl."
        )
    say(f"building {what} (several minutes the first time) ...")
    # An older Go fetches the one that go.mod asks for; where a machine forbids that, its own setting stands.
    environment = {"GOTOOLCHAIN": "auto", "GOFLAGS": "-buildvcs=false"} | os.environ
    flags = ["-trimpath", "-tags", module.tags, "-ldflags", module.link_flags()]
    command = [go, "build", *flags, "-o", f"{directory}/", *(module.programs[name] for name in names)]
    if subprocess.run(command, cwd=module.directory, env=environment, check=False).returncode:
        raise TestbedError(f"Building {what} in {module.directory} failed, see the lines above.")
    say(f"built {what}")


def _module(name: str) -> Module:
    return next(module for module in MODULES if name in module.programs)


def _built_directory(module: Module) -> Path:
    return cache_directory() / f"{module.name}-{module.version()}"


def _known() -> Iterator[str]:
    yield "etcd"
    for module in MODULES:
        yield from module.programs


def _version(path: str) -> tuple[int, int]:
    """Return (major, minor) of a program, (0, 0) when it does not say."""
    arguments = VERSION_ARGUMENTS.get(Path(path).name, ("--version",))
    result = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
    match = re.search(r"v?(\d+)\.(\d+)\.", result.stdout)
    return (int(match[1]), int(match[2])) if match else (0, 0)
