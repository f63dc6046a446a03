"""What containerd, kubelet and the pods' network of a test node are told."""

import json
from dataclasses import dataclass
from pathlib import Path

from testbed.containers import PAUSE

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
PLUGINS = "/usr/lib/cni"  # of Debian's containernetworking-plugins


@dataclass(frozen=True)
class Places:
    """Files and directories of one node that its programs are told of. `authority`: the certificate of the cluster."""

    network: Path
    containerd_opt: Path
    volume_plugins: Path
    runc: Path
    authority: Path


def pod_network(number: int) -> str:
    """Return the network of a node's pods: a bridge, and addresses that other nodes' pods do not have."""
    addresses = {
        "type": "host-local",
        "ranges": [[{"subnet": f"10.244.{number}.0/24"}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {"type": "bridge", "bridge": f"pods-{number}", "isGateway": True, "ipam": addresses}
    return json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge]})


def containerd_settings(places: Places) -> str:
    return f"""
version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
path = "{places.containerd_opt}"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{PAUSE}"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true  # a machine may lack CAP_SYS_RESOURCE
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{PLUGINS}"]
conf_dir = "{places.network}"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "{places.runc}"
SystemdCgroup = false
"""


def kubelet_settings(places: Places, address: str, control_group: str) -> str:
    never = "0%"
    settings = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": address,  # two nodes share the network
        "healthzPort": 0,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(places.authority)},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{control_group}",
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "enforceNodeAllocatable": [],
        # This is a corner of somebody's machine, whose disk may be as full as it likes.
        "evictionHard": {"memory.available": never, "nodefs.available": never, "imagefs.available": never},
        "failCgroupV1": False,
        "failSwapOn": False,
        "imageGCHighThresholdPercent": 100,
        "makeIPTablesUtilChains": False,
        "resolvConf": "",
        "volumePluginDir": str(places.volume_plugins),
    }
    return json.dumps(settings, indent=1)
