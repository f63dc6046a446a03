"""The demo on a cluster and a libvirt that are somebody's own: only when asked for by CLUSTER=existing."""

import contextlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt

from testbed.boot import boot_files
from testbed.cache import remove, say
from testbed.cluster import state_directory
from testbed.errors import TestbedError
from testbed.guests import wait_until_ready
from testbed.holder import NAMESPACE, REPOSITORY, SYSTEM_NAMESPACE, start_guests
from testbed.tools import tool

LOCATION = "demo"
DOMAINS = ("demo_web", "demo_db")
READY_SECONDS = 60
END_SECONDS = 20


@contextlib.contextmanager
def existing() -> Iterator[tuple[dict[str, str], str]]:
    """Yield the variables for kubectl and virsh, and the name of the location, while VMs, controller and agent run.

    They end with it. The CRDs, the namespaces, the VMBackups and their sets stay, and it is said how to remove them.
    Raises TestbedError when the cluster or the libvirt is not named, or already has VMs of these names.
    """
    missing = [name for name in ("KUBECONFIG", "LIBVIRT_DEFAULT_URI") if not os.environ.get(name)]
    if missing:
        raise TestbedError(f"CLUSTER=existing needs {' and '.join(missing)} in the environment.")
    variables = {name: os.environ[name] for name in ("KUBECONFIG", "LIBVIRT_DEFAULT_URI")}
    uri = variables["LIBVIRT_DEFAULT_URI"]
    state = state_directory().with_name(f"{state_directory().name}-existing")
    variables["VMBACKUP_LOCATION_PATH"] = str(state / "backups")
    node = f"{platform.node().lower()}-demo"
    say(f"using the cluster of KUBECONFIG={variables['KUBECONFIG']} and the libvirt at {uri}")
    with contextlib.ExitStack() as stack:
        _check_free(uri)
        for name in ("images", "guest", "log", "agent"):
            remove(state / name)
            (state / name).mkdir(parents=True)
        (state / "backups").mkdir(exist_ok=True)
        _fill(state)
        stack.callback(_kubectl, "delete", "vmhost", node, "--ignore-not-found")
        stack.callback(_remove_guests, uri, state)
        boot_files(state / "guest")
        serial_log = start_guests(state, state / "images", uri)
        stack.enter_context(_running(state, "controller", "--probe-port", "0"))
        places = ("--state", str(state / "agent"), "--images", str(state / "images"))
        stack.enter_context(_running(state, "agent", "--probe-port", "0", "--node", node, *places))
        wait = f"--timeout={READY_SECONDS}s"
        _kubectl("wait", "--for=create", wait, f"vmhost/{node}")
        ready = """--for=jsonpath={.status.conditions[?(@.type=="Ready")].status}=True"""
        _kubectl("wait", ready, wait, f"vmhost/{node}", f"vmbackuplocation/{LOCATION}")
        wait_until_ready(serial_log)
        yield variables, LOCATION
        say("VMs, controller and agent are ended. To remove the rest:")
        say(f"  kubectl delete namespace {NAMESPACE} {SYSTEM_NAMESPACE}; kubectl delete -f crds; rm -r {state}")


def _check_free(uri: str) -> None:
    """Raises TestbedError when the libvirt has VMs of our names: they are not ours."""
    connection = libvirt.open(uri)
    try:
        taken = {domain.name() for domain in connection.listAllDomains()} & set(DOMAINS)
    finally:
        connection.close()
    if taken:
        raise TestbedError(f"{uri} already has {', '.join(sorted(taken))}; they are left alone. Remove them first.")


def _remove_guests(uri: str, state: Path) -> None:
    connection = libvirt.open(uri)
    try:
        for domain in connection.listAllDomains():
            if domain.name() in DOMAINS:
                with contextlib.suppress(libvirt.libvirtError):  # it is off already
                    domain.destroy()
                domain.undefine()
    finally:
        connection.close()
    remove(state / "images")


def _fill(state: Path) -> None:
    """Apply the CRDs, the namespaces and the location."""
    crds = _kubectl("apply", "--server-side", "-f", str(REPOSITORY / "crds"), "-o", "name").split()
    _kubectl("wait", "--for=condition=Established", f"--timeout={READY_SECONDS}s", *crds)
    for name in (NAMESPACE, SYSTEM_NAMESPACE):
        _apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    spec = {"directory": {"path": str(state / "backups")}, "allowedNamespaces": {"names": [NAMESPACE]}}
    kind = {"apiVersion": "vmbackup.dev/v1alpha1", "kind": "VMBackupLocation", "metadata": {"name": LOCATION}}
    _apply(kind | {"spec": spec})


@contextlib.contextmanager
def _running(state: Path, role: str, *flags: str) -> Iterator[None]:
    """Run controller or agent; it is ended when the context is left."""
    with (state / "log" / f"{role}.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "vmbackup", role, *flags], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _apply(body: dict[str, Any]) -> None:
    _kubectl("apply", "--server-side", "-f", "-", text=json.dumps(body))


def _kubectl(*arguments: str, text: str | None = None) -> str:
    result = subprocess.run([str(tool("kubectl")), *arguments], input=text, capture_output=True, text=True, check=False)
    if result.returncode:
        raise TestbedError(f"kubectl {' '.join(arguments)} failed: {result.stderr.strip()}")
    return result.stdout
