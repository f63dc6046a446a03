"""The Kubernetes programs: taken from the machine where they fit, else built from dev/kubernetes/go.mod."""

import functools
import os
import re
import shutil
import subprocess
from pathlib import Path

from testbed.cache import cached, say
from testbed.errors import TestbedError

MODULE_DIRECTORY = Path(__file__).resolve().parent.parent / "kubernetes"
# The oldest version that is taken from PATH. kubectl supports servers one minor version away only.
OLDEST = {
    "etcd": (3, 4),
    "kube-apiserver": (1, 32),
    "kube-controller-manager": (1, 32),
    "kube-scheduler": (1, 32),
    "kubelet": (1, 32),
    "kubectl": (1, 35),
}


@functools.cache
def tool(name: str) -> Path:
    """Return the path of a program: from KUBEBUILDER_ASSETS, else from PATH when new enough, else built.

    Raises TestbedError when it is not to be had.
    """
    if name not in OLDEST:
        raise TestbedError(f"Unknown tool {name!r}; known are {', '.join(OLDEST)}.")
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets and os.access(Path(assets) / name, os.X_OK):
        return Path(assets) / name
    found = shutil.which(name)
    if found and _version(found) >= OLDEST[name]:
        return Path(found)
    if name == "etcd":
        raise TestbedError("etcd 3.4 or later is missing: run dev/bootstrap.sh (Debian package etcd-server).")
    return _built(name)


def go_version() -> str:
    """Return the version of Kubernetes that dev/kubernetes/go.mod builds, such as v1.36.3."""
    match = re.search(r"^\s*k8s\.io/kubernetes (v\S+)", (MODULE_DIRECTORY / "go.mod").read_text(), re.MULTILINE)
    if not match:
        raise TestbedError(f"{MODULE_DIRECTORY}/go.mod names no version of k8s.io/kubernetes: restore the file.")
    return match[1]


def _built(name: str) -> Path:
    version = go_version()

    def build(path: Path) -> None:
        go = shutil.which("go")
        if not go:
            raise TestbedError(
                f"{name} must be built and Go is missing: run dev/bootstrap.sh, or set "
                "KUBEBUILDER_ASSETS to a directory with etcd, kube-apiserver and kubectl."
            )
        say(f"building {name} {version} (several minutes the first time) ...")
        package = "k8s.io/component-base/version"
        major, minor = version.removeprefix("v").split(".")[:2]
        stamps = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
        flags = " ".join(["-s", "-w", *(f"-X {package}.{key}={value}" for key, value in stamps.items())])
        # An older Go fetches the one that go.mod asks for; where a machine forbids that, its own setting stands.
        environment = {"GOTOOLCHAIN": "auto", "GOFLAGS": "-buildvcs=false"} | os.environ
        command = [go, "build", "-trimpath", "-ldflags", flags, "-o", str(path), f"k8s.io/kubernetes/cmd/{name}"]
        result = subprocess.run(command, cwd=MODULE_DIRECTORY, env=environment, check=False)
        if result.returncode:
            raise TestbedError(f"Building {name} {version} in {MODULE_DIRECTORY} failed, see the lines above.")
        say(f"built {name} {version}")

    return cached(f"kubernetes-{version}/{name}", build)


def _version(path: str) -> tuple[int, int]:
    """Return (major, minor) of a program, (0, 0) when it does not say."""
    arguments = ["version", "--client"] if path.endswith("kubectl") else ["--version"]
    result = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
    match = re.search(r"v?(\d+)\.(\d+)\.", result.stdout)
    return (int(match[1]), int(match[2])) if match else (0, 0)
