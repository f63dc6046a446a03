"""The whole chain as processes: API server with a front, libvirtd, controller, agent; and ways to break it."""

import json
import os
import shutil
import subprocess
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from fault.front import Front
from fault.machine import NAMESPACE, Machine
from fault.mounts import SickDisk, mount_new, remount, unmount
from fault.processes import Process
from integration.libvirt.machines import wait_until
from integration.system.programs import COMMAND, SYSTEM_NAMESPACE, grant
from testbed.controlplane import ControlPlane
from testbed.hypervisor import Libvirtd
from vmbackup.api import names
from vmbackup.cluster.client import Client
from vmbackup.cluster.errors import APIServerAway, Conflict, NotFound
from vmbackup.cluster.resources import LOCATION, VMBACKUP, VMHOST, Resources

NODE = "node-1"
PLAIN, SMALL, SICK, SPARE = "plain", "small", "sick", "spare"
DISKS_MIB, SMALL_MIB, IMAGES_MIB = 1536, 768, 192
# Nobody waits five minutes for a hang in a test; the grace is what a kubelet gives by default, shortened.
STALL_SECONDS, GRACE_SECONDS, MISSING_SECONDS = 10, 10, 5
REPOSITORY = Path(__file__).resolve().parents[2]


class Stage:
    """Everything that the cells share. `mend` brings back what a cell has broken."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.state = place / "state"
        self._ends = ExitStack()
        self._etcd_is_up = self._api_is_up = self._daemon_is_up = True
        self._spoiled = True

    # -- starting -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.cluster = self._ends.enter_context(ControlPlane(self.place / "k8s"))
        self.host = Libvirtd("9.0", directory=self.place / "virt")
        disks = self.host.images / "disks"
        mount_new(disks, DISKS_MIB)
        disks.chmod(0o755)
        self._ends.callback(unmount, disks)
        self.images = self.host.images / "restored"
        mount_new(self.images, IMAGES_MIB)
        self.images.chmod(0o755)
        self._ends.callback(unmount, self.images)
        self.sick = SickDisk(self.place / "sick")
        self._ends.callback(self.sick.stop)
        self._ends.enter_context(self.host)
        self.machine = Machine(self.host, disks)
        self._prepare_cluster()
        self._make_locations()
        self.front = Front(self.cluster)
        self._ends.callback(self.front.close)
        self._make_programs()
        self.old_set: dict[str, str] = {}

    def stop(self) -> None:
        for program in (self.controller, self.agent):
            if program.runs:
                program.kill()
        self._ends.close()

    def _prepare_cluster(self) -> None:
        cluster = self.cluster
        cluster.apply(REPOSITORY / "crds")
        for namespace in (SYSTEM_NAMESPACE, NAMESPACE):
            cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        for account in ("agent", "controller"):
            cluster.service_account_kubeconfig(SYSTEM_NAMESPACE, account)
        grant(cluster)
        self.client = Client(cluster.kubeconfig, field_manager="fault-tests")
        self.resources = Resources(self.client)

    def _make_locations(self) -> None:
        for name in (PLAIN, SMALL):
            self.directory(name).mkdir(parents=True)
        mount_new(self.directory(SMALL), SMALL_MIB, "sync")
        self._ends.callback(unmount, self.directory(SMALL))
        (self.directory(PLAIN) / "foreign.txt").write_text("not ours\n")
        for name in (PLAIN, SMALL):
            self.make_location(name)

    def make_location(self, name: str) -> None:
        """Make it if there is none."""
        spec = {
            "directory": {"path": str(self.directory(name))},
            "allowedNamespaces": {"names": [NAMESPACE]},
            "minFree": "2%",
        }
        body = {"apiVersion": names.API_VERSION, "kind": "VMBackupLocation", "metadata": {"name": name}, "spec": spec}
        with suppress(Conflict):
            self.client.create(LOCATION.collection(), body)

    def use_sick_location(self) -> None:
        """Have a fresh file system on the sick disk, as location."""
        self.sick.stop()
        self.sick.start()
        self.make_location(SICK)

    def use_spare_location(self) -> None:
        """Have an empty directory as location, to be removed and made again."""
        self.directory(SPARE).mkdir(exist_ok=True)
        self.make_location(SPARE)

    def directory(self, location: str) -> Path:
        if location == SICK:
            return self.sick.at
        return self.place / "locations" / (f"{SMALL}/{SPARE}" if location == SPARE else location)

    def _make_programs(self) -> None:
        kubeconfig = self.cluster.service_account_kubeconfig(SYSTEM_NAMESPACE, "controller")
        self.controller = self._new_controller(kubeconfig)
        self.controller.start()
        self.new_token()
        self.agent = self.new_agent()
        self.state.mkdir()
        self.agent.start()

    def controller_behind_front(self) -> Process:
        """Return a controller that does not run yet, and asks the API server through the front."""
        kubeconfig = self.cluster.service_account_kubeconfig(SYSTEM_NAMESPACE, "controller")
        return self._new_controller(self.front.kubeconfig(kubeconfig))

    def _new_controller(self, kubeconfig: Path) -> Process:
        flags = ["--namespace", SYSTEM_NAMESPACE, "--probe-port", "0", "--missing-seconds", str(MISSING_SECONDS)]
        log = self.place / "controller.log"
        return Process([*COMMAND, "controller", *flags], log, {"KUBECONFIG": str(kubeconfig)})

    def revoke_token(self) -> None:
        """Make the agent's token worthless: its pod is gone."""
        self.cluster.kubectl("delete", "pod", "agent-1", "-n", SYSTEM_NAMESPACE, "--grace-period=0", "--force")

    def delete_location(self, name: str) -> None:
        self.client.call("DELETE", LOCATION.path(name))

    def new_token(self) -> None:
        """Give the agent a token, as the kubelet does for its pod."""
        self.cluster.placeholder_pod(SYSTEM_NAMESPACE, "agent-1", "agent", NODE)
        path = self.cluster.service_account_kubeconfig(SYSTEM_NAMESPACE, "agent", "agent-1")
        self._kubeconfig = self.front.kubeconfig(path)

    def new_agent(self, name: str = "agent", state: Path | None = None, command: tuple[str, ...] = COMMAND) -> Process:
        """Return an agent of the node that does not run yet. `command` is what runs the product."""
        flags = ["--namespace", SYSTEM_NAMESPACE, "--node", NODE, "--probe-port", "0"]
        flags += ["--state", str(state or self.state), "--images", str(self.images)]
        flags += ["--stall-seconds", str(STALL_SECONDS), "--grace-seconds", str(GRACE_SECONDS)]
        variables = {"KUBECONFIG": str(self._kubeconfig), "LIBVIRT_DEFAULT_URI": self.host.uri}
        return Process([*command, "agent", *flags], self.place / f"{name}.log", variables)

    def inspect(self) -> tuple[int, list[dict[str, str]]]:
        """Return exit code and findings of `vmbackup-operator inspect` on the node."""
        command = [*COMMAND, "inspect", "--connect", self.host.uri, "--state", str(self.state), "--json"]
        result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=self.place)
        findings: list[dict[str, str]] = json.loads(result.stdout) if result.stdout.startswith("[") else []
        return result.returncode, findings

    # -- breaking and mending -----------------------------------------------------------------------------------

    def kill_daemon(self) -> None:
        self._daemon_is_up = False
        self.host.kill_daemon()

    def start_daemon(self) -> None:
        if not self._daemon_is_up:
            self.host.start_daemon()
            self._daemon_is_up = True

    def stop_apiserver(self) -> None:
        self._api_is_up = False
        self.cluster.stop_apiserver()

    def stop_etcd(self) -> None:
        self._etcd_is_up = False
        self.cluster.stop_etcd()

    def start_cluster(self) -> None:
        if not self._etcd_is_up:
            self.cluster.start_etcd()
            self._etcd_is_up = True
        if not self._api_is_up:
            self.cluster.start_apiserver()
            self._api_is_up = True
        self.controller.start()  # as a kubelet does: it ends when it could not renew its lead

    def mend(self, *, spoiled: bool) -> None:
        """Bring back every part; `spoiled`: the VM or the agent's records are not as they should be, make new ones."""
        self.agent.go_on()
        self.sick.recover() if self.sick.at.is_mount() else None
        self.front.answer()
        self.start_cluster()
        self.start_daemon()
        if spoiled:
            self._forget()
        self.controller.start()
        self.agent.start()
        self._delete_backups()
        remount(self.directory(SMALL), "rw")
        for name in (PLAIN, SMALL):
            self.make_location(name)
        for name in (PLAIN, SMALL, SICK, SPARE):
            self._tidy(name)

    def until_ready(self) -> None:
        """Return when the agent tells of the VM, and the locations are Ready."""
        wait_until(self._is_ready, "the VMHost shows the VM and the locations are Ready")

    def running_vms(self) -> set[str]:
        """Return the VMs that run, as the agent tells. Raises: NotFound, APIServerAway."""
        vms = self.resources.get(VMHOST, NODE).get("status", {}).get("vms", ())
        return {str(vm["name"]) for vm in vms if vm.get("running")}

    def _is_ready(self) -> bool:
        try:
            told = self.running_vms()
            ready = [_ready(self.resources.get(LOCATION, name)) for name in (PLAIN, SMALL)]
        except (NotFound, APIServerAway):
            return False
        return "web" in told and all(ready)

    def _forget(self) -> None:
        """Start with a VM and an agent that know nothing of what was."""
        if self.agent.runs:
            self.agent.kill()
        shutil.rmtree(self.state)
        self.state.mkdir()
        self.machine.build()

    def _delete_backups(self) -> None:
        collection = VMBACKUP.collection(NAMESPACE)
        for body in self.client.list(collection):
            self.client.call("DELETE", VMBACKUP.path(body["metadata"]["name"], NAMESPACE))
        wait_until(lambda: not list(self.client.list(collection)), "all VMBackups are gone")

    def _tidy(self, location: str) -> None:
        """Remove what cells have left in a location: all but the old set and the foreign file."""
        top = self.directory(location)
        if not top.is_dir() or (location == SICK and not top.is_mount()):
            return
        for path in sorted(top.rglob("*"), reverse=True):
            if path.is_file() and str(path) not in self.old_set and path.name != "foreign.txt":
                path.unlink()
            elif path.is_dir() and path != self.directory(SPARE) and not any(path.iterdir()):
                path.rmdir()

    def logs(self, characters: int = 4000) -> str:
        return "\n".join(f"== {p.log}\n{p.last_words(characters)}" for p in (self.agent, self.controller))


def _ready(location: dict[str, Any]) -> bool:
    conditions = location.get("status", {}).get("conditions", ())
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def keep() -> bool:
    return "VMBACKUP_KEEP" in os.environ
