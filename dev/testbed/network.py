"""A network of its own for a cluster: nothing of it is seen on the machine but one end of a cable."""

import ipaddress
import os
import secrets
import subprocess
from pathlib import Path

from testbed.errors import TestbedError
from testbed.namespace import Namespace

# Meant for tests of network devices (RFC 2544), so no real machine has an address in it.
RANGE = ipaddress.ip_network("198.18.0.0/15")
SERVICES = "10.96.0.0/16"
KUBERNETES_SERVICE = "10.96.0.1"  # the first of SERVICES: what pods call the API server
CONTROL_PLANE, FIRST_NODE = 2, 3  # host numbers in the cluster's network; 1 is the machine


class ClusterNetwork:
    """One network for control plane and nodes, reachable from the machine by a pair of virtual cards.

    There is no kube-proxy and no address translation: the API server answers at the address of its own service,
    which is an address of this network; other services are not served. Pods reach the API server and each other.
    `address` is the control plane's.
    """

    def __init__(self, afterwards: str = "") -> None:
        """`afterwards`: shell lines that are run when all is over, see Namespace."""
        setup = f"ip link set lo up\nip address add {KUBERNETES_SERVICE}/32 dev lo"
        self.namespace = Namespace(setup, network=True, afterwards=afterwards)
        self._network = _free_network()

    @property
    def address(self) -> str:
        return str(self._network[CONTROL_PLANE])

    def start(self) -> None:
        """Make the network. Raises TestbedError when it cannot be made."""
        self.namespace.start()
        try:
            card, pid = f"vmb{secrets.token_hex(4)}", str(self.namespace.pid)
            _run("ip", "link", "add", card, "type", "veth", "peer", "name", "eth0", "netns", pid)
            _run("ip", "address", "add", f"{self._network[1]}/{self._network.prefixlen}", "dev", card)
            _run("ip", "link", "set", card, "up")
            self._inside("ip", "link", "set", "eth0", "up")
            self.add_address(self.address)
        except BaseException:
            self.stop()
            raise

    def node_address(self, number: int) -> str:
        """Return the address that is meant for node 1, 2 and so on; see `add_address`."""
        return str(self._network[FIRST_NODE + number - 1])

    def add_address(self, address: str) -> None:
        """Give the cluster's card one more address."""
        self._inside("ip", "address", "add", f"{address}/{self._network.prefixlen}", "dev", "eth0")

    def stop(self) -> None:
        """End everything that runs in the network's namespaces; the cards go with them."""
        self.namespace.stop()

    def _inside(self, *command: str) -> None:
        _run(*self.namespace.in_network(*command))


def _free_network() -> ipaddress.IPv4Network:
    """Return sixteen addresses that no card of this machine has; by chance, because others may be choosing, too."""
    taken = _run("ip", "-4", "-oneline", "address")
    networks = RANGE.num_addresses // 16
    while True:
        start = int(RANGE.network_address) + 16 * secrets.randbelow(networks)
        network = ipaddress.IPv4Network((start, 28))
        if f" {network[1]}/" not in taken:
            return network


def without_proxy(address: str) -> dict[str, str]:
    """Return the environment for programs that must reach `address` directly, whatever proxy the machine has."""
    listed = ",".join(filter(None, (os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), address)))
    return os.environ | {"NO_PROXY": listed, "no_proxy": listed}


def _run(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path("/"))
    if result.returncode:
        raise TestbedError(f"{' '.join(command)} failed: {result.stderr.strip()} It needs root and iproute2.")
    return result.stdout
