"""The first process of the development cluster's namespace: starts every part, then keeps them running."""

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

from testbed.controlplane import ControlPlane
from testbed.errors import TestbedError
from testbed.guests import Boot, Disk, Options, domain_xml, start_guest, wait_until_ready
from testbed.hypervisor import Libvirtd
from testbed.images import disk_image

REPOSITORY = Path(__file__).resolve().parent.parent.parent
NAMESPACE = "demo"
LOCATION = "local"
SYSTEM_NAMESPACE = "vmbackup-system"
READY_SECONDS = 120
RESTART_SECONDS = 1
GIB = 1 << 30
SEQUENCE_REST_MICROSECONDS = 20_000

# The flags of our two programs, in this one place.
CONTROLLER = ("controller", "--probe-port", "0")
AGENT = ("agent", "--probe-port", "0", "--node", "{node}", "--state", "{state}", "--images", "{images}")


class Operator:
    """Controller and agent, each with a kubeconfig of its own; started anew when they end, as a kubelet would."""

    def __init__(self, state: Path, cluster: ControlPlane, host: Libvirtd, node: str) -> None:
        self._state, self._host, self._node = state, host, node
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM_NAMESPACE}})
        self._grant(cluster)
        cluster.service_account_kubeconfig(SYSTEM_NAMESPACE, "agent")
        cluster.placeholder_pod(SYSTEM_NAMESPACE, f"agent-{node}", "agent", node)
        (state / "agent").mkdir(mode=0o700, exist_ok=True)
        self._kubeconfigs = {
            CONTROLLER: cluster.service_account_kubeconfig(SYSTEM_NAMESPACE, "controller"),
            AGENT: cluster.service_account_kubeconfig(SYSTEM_NAMESPACE, "agent", f"agent-{node}"),
        }
        self._running: dict[int, tuple[str, ...]] = {}

    def start(self, program: tuple[str, ...]) -> None:
        """Start CONTROLLER or AGENT."""
        places = {"node": self._node, "state": self._state / "agent", "images": self._host.images}
        arguments = [word.format(**places) for word in program]
        variables = {"KUBECONFIG": str(self._kubeconfigs[program]), "LIBVIRT_DEFAULT_URI": self._host.uri}
        with (self._state / "log" / f"{program[0]}.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "vmbackup", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._state,
                env=os.environ | variables,
            )
        self._running[process.pid] = program

    def ended(self, pid: int) -> None:
        """Start the program again that had this PID; other PIDs are nobody's."""
        program = self._running.pop(pid, None)
        if program:
            print(f"{program[0]} ended, starting it again", flush=True)
            time.sleep(RESTART_SECONDS)
            self.start(program)

    def check(self) -> None:
        """Raise TestbedError when a program has ended."""
        for pid, program in self._running.items():
            if os.waitpid(pid, os.WNOHANG)[0]:
                log = self._state / "log" / f"{program[0]}.log"
                raise TestbedError(f"{program[0]} ended at once, see {log}:\n{log.read_text()[-2000:]}")

    @staticmethod
    def _grant(cluster: ControlPlane) -> None:
        """Apply the project's own roles when it has them; until then both programs may do everything."""
        roles = REPOSITORY / "manifests" / "rbac"
        if roles.is_dir():
            cluster.apply(roles)
            return
        subjects = [
            {"kind": "ServiceAccount", "namespace": SYSTEM_NAMESPACE, "name": name} for name in ("controller", "agent")
        ]
        cluster.apply(
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": "vmbackup-development"},
                "subjects": subjects,
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            }
        )


def hold(state: Path, *, with_operator: bool) -> None:
    """Start everything, write `ready.json` when all is Ready, and keep it running until this process is killed."""
    node = platform.node().lower()
    with contextlib.ExitStack() as stack:
        host = stack.enter_context(Libvirtd("9.0", directory=state / "virt"))
        print("libvirt runs", flush=True)
        serial_log = start_guests(state, host.images, host.uri)
        cluster = stack.enter_context(ControlPlane(state / "k8s"))
        print(f"Kubernetes runs at {cluster.url}", flush=True)
        _fill(cluster, state)
        operator = Operator(state, cluster, host, node) if with_operator else None
        if operator:
            operator.start(CONTROLLER)
            operator.start(AGENT)
            _wait_until_ready(cluster, operator, {"vmhost": node, "vmbackuplocation": LOCATION})
            print("controller and agent are Ready", flush=True)
        wait_until_ready(serial_log)
        print("guests run", flush=True)
        values = {
            "KUBECONFIG": str(cluster.kubeconfig),
            "KUBECACHEDIR": str(cluster.directory / "kubectl-cache"),
            "LIBVIRT_DEFAULT_URI": host.uri,
            "VMBACKUP_LOCATION_PATH": str(state / "backups"),
        }
        partial = state / "ready.json.partial"
        partial.write_text(json.dumps(values))
        partial.rename(state / "ready.json")
        while True:
            # As first process of the namespace we inherit, and must reap, every orphan.
            pid, _ = os.wait()
            if operator:
                operator.ended(pid)


def start_guests(state: Path, images: Path, uri: str) -> Path:
    """Start demo_web, which boots and writes to two disks, and demo_db, an idle one with 1 GiB of data.

    Return the path of demo_web's console log.
    """
    serial_log = state / "log" / "demo_web.log"
    arguments = f"testbed.ext4=vda testbed.sequence=vda,vdb,{SEQUENCE_REST_MICROSECONDS}"
    boot = Boot(state / "guest/vmlinuz", state / "guest/initramfs", serial_log, arguments)
    web = [
        Disk(disk_image(images / "web-system.qcow2", "qcow2", 2 * GIB), "vda"),
        Disk(disk_image(images / "web-data.raw", "raw", GIB // 4), "vdb", "raw"),
    ]
    start_guest(uri, domain_xml("demo_web", web, Options(memory_mib=160, agent=True, boot=boot)))
    database = [
        Disk(disk_image(images / "db.qcow2", "qcow2", 4 * GIB, GIB), "vda"),
        Disk(None, "sda", "raw", "cdrom"),
    ]
    start_guest(uri, domain_xml("demo_db", database))
    return serial_log


def _fill(cluster: ControlPlane, state: Path) -> None:
    """Apply the CRDs and make the namespace and the location."""
    cluster.apply(REPOSITORY / "crds")
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    cluster.apply(
        {
            "apiVersion": "vmbackup.dev/v1alpha1",
            "kind": "VMBackupLocation",
            "metadata": {"name": LOCATION},
            "spec": {"directory": {"path": str(state / "backups")}, "allowedNamespaces": {"names": [NAMESPACE]}},
        }
    )


def _wait_until_ready(cluster: ControlPlane, operator: Operator, names: dict[str, str]) -> None:
    """Return when each resource (kind: name) says Ready=True. Raises TestbedError after 120 s."""
    deadline = time.monotonic() + READY_SECONDS
    path = '{.status.conditions[?(@.type=="Ready")].status}'
    for kind, name in names.items():
        while cluster.kubectl("get", kind, name, "--ignore-not-found", "-o", f"jsonpath={path}") != "True":
            operator.check()
            if time.monotonic() > deadline:
                state = cluster.kubectl("get", kind, name, "--ignore-not-found", "-o", "yaml")
                raise TestbedError(f"{kind} {name} is not Ready after {READY_SECONDS} s:\n{state or 'not there'}")
            time.sleep(0.3)


if __name__ == "__main__":
    try:
        hold(Path(sys.argv[1]), with_operator="bare" not in sys.argv[2:])
    except TestbedError as error:
        sys.exit(f"testbed: {error}")
