"""Every metric: its name, what it counts and its labels. One table; docs/metrics.md is held against it by a test.

Labels are few and bounded: namespaces, VMs and nodes that exist, and words of ours. Never the name of a VMBackup.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

MINUTE, HOUR = 60.0, 3600.0
Labels = tuple[str, ...]


@dataclass(frozen=True)
class Metric:
    """`labels`: their names, in the order in which samples give the values. `buckets`: of a histogram, in its unit."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    help: str
    labels: Labels = ()
    buckets: tuple[float, ...] = ()


Samples = Mapping[Metric, Mapping[Labels, float]]
"""What gauges show: by metric, the value for each combination of labels."""

BACKUPS = Metric(
    "vmbackup_backups_total",
    "counter",
    "VMBackups that ended, by result and method.",
    ("result", "method", "namespace"),
)
DURATION = Metric(
    "vmbackup_backup_duration_seconds",
    "histogram",
    "Time from a backup's start on the node to its end.",
    ("result", "method"),
    (1, 5, 15, 30, MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 30 * MINUTE, HOUR, 2 * HOUR, 6 * HOUR, 24 * HOUR),
)
BYTES = Metric("vmbackup_backup_bytes_total", "counter", "Bytes that published sets occupy.", ("method", "namespace"))
QUEUE_DEPTH = Metric("vmbackup_queue_depth", "gauge", "VMBackups that wait for their turn.")
QUEUE_OLDEST = Metric(
    "vmbackup_queue_oldest_seconds", "gauge", "How long the oldest of them has been waiting; 0 when none waits."
)
LAST_SUCCESS = Metric(
    "vmbackup_last_success_timestamp_seconds",
    "gauge",
    "End of a VM's last successful backup, of the VMBackups that are there.",
    ("namespace", "vm"),
)
RESTORES = Metric(
    "vmbackup_restores_total",
    "counter",
    "VMRestores that ended, by result and kind.",
    ("result", "kind", "namespace"),
)
LAST_PROOF = Metric(
    "vmbackup_last_proof_timestamp_seconds",
    "gauge",
    "When a set of a VM last stood a proof of this kind, of the VMBackups that are there.",
    ("namespace", "vm", "kind"),
)
UNPROVED_SETS = Metric(
    "vmbackup_failed_proof_sets",
    "gauge",
    "Sets of a VM whose last proof of this kind failed, of the VMBackups that are there.",
    ("namespace", "vm", "kind"),
)
WATCH_AGE = Metric(
    "vmbackup_watch_age_seconds",
    "gauge",
    "Time since a watch was last known to miss nothing: by an event, or by comparison with a list.",
    ("resource",),
)
HEARTBEAT = Metric(
    "vmbackup_agent_heartbeat_timestamp_seconds", "gauge", "When a node's agent was last heard of.", ("node",)
)
LEADER = Metric("vmbackup_leader", "gauge", "Whether this replica of the controller leads.")

CONTROLLER = (
    *(BACKUPS, DURATION, BYTES, QUEUE_DEPTH, QUEUE_OLDEST, LAST_SUCCESS, RESTORES, LAST_PROOF, UNPROVED_SETS),
    *(WATCH_AGE, HEARTBEAT, LEADER),
)

FROZEN = Metric(
    "vmbackup_frozen_seconds",
    "histogram",
    "How long guests' file systems were frozen.",
    ("node",),
    (0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 8, 10, 15, 30),
)
OVERLAY = Metric(
    "vmbackup_overlay_seconds",
    "histogram",
    "How long VMs wrote to overlays of ours.",
    ("node",),
    (1, 5, 15, 30, MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 20 * MINUTE, 30 * MINUTE, HOUR, 6 * HOUR, 24 * HOUR),
)
LIBVIRT_CALL = Metric(
    "vmbackup_libvirt_call_seconds",
    "histogram",
    "How long the libvirt daemon took to answer, by what it was asked.",
    ("node", "call"),
    (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, MINUTE),
)
MERGE_DEBTS = Metric(
    "vmbackup_merge_debts", "gauge", "Backups whose overlays are not merged back into the VM's disks yet.", ("node",)
)
MERGE_DEBT_OLDEST = Metric(
    "vmbackup_merge_debt_oldest_seconds",
    "gauge",
    "Age of the oldest of these overlays; 0 when there is none.",
    ("node",),
)
FROZEN_GUESTS = Metric("vmbackup_frozen_guests", "gauge", "Guests that may be frozen by us at this moment.", ("node",))
STRANDED = Metric("vmbackup_stranded_vms", "gauge", "VMs whose overlays a human must decide about.", ("node",))
RUNNING = Metric("vmbackup_backups_running", "gauge", "Backups that the agent works on.", ("node",))

AGENT = (FROZEN, OVERLAY, LIBVIRT_CALL, MERGE_DEBTS, MERGE_DEBT_OLDEST, FROZEN_GUESTS, STRANDED, RUNNING)
