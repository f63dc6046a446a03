"""Values that switch on all that the chart can do, and what the API server says of the outcome."""

import json
from typing import Any

from chart.programs import Body
from testbed.controlplane import ControlPlane

EVERYTHING: dict[str, Any] = {
    "commonLabels": {"team": "storage"},
    "imagePullSecrets": [{"name": "registry"}],
    "image": {"digest": f"sha256:{'0' * 64}"},
    "controller": {
        "podAnnotations": {"a": "b"},
        "podLabels": {"c": "d"},
        "priorityClassName": "system-cluster-critical",
        "tolerations": [{"key": "k", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
    },
    "agent": {
        "defaultNamespace": "default",
        "allowMonitor": True,
        "blockDevices": True,
        "directories": {"locations": ["/srv/a", "/mnt/b"], "images": ["/srv/images"], "nvram": ""},
        "tolerations": [{"operator": "Exists"}],
        "seLinuxOptions": {"type": "spc_t"},
        "updateStrategy": {"type": "OnDelete"},
    },
    "kubevirt": {"enabled": True, "kubeletDirectory": "/var/lib/rancher/kubelet"},
    "networkPolicy": {
        "metricsFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        "apiServerPorts": [443, 6443],
    },
    "metrics": {
        "podMonitor": {"enabled": True},
        "serviceMonitor": {"enabled": True},
        "rules": {"enabled": True},
        "dashboard": {"enabled": True},
    },
}


def dry_run(cluster: ControlPlane, bodies: list[Body]) -> str:
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": bodies})
    return cluster.kubectl("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-", input=text)
