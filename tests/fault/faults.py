"""Every column of the matrix in words, in groups. A test names its columns by the keys."""

FAULTS: dict[str, dict[str, str]] = {
    "The agent dies or is asked to end": {
        "agent-sigkill": "SIGKILL, started again at once",
        "agent-killed-twice": "SIGKILL, and again while it recovers",
        "agent-killed-half-placed": "SIGKILL when the first of two disks has its new image",
        "agent-killed-flattening": "SIGKILL while it completes the images of an instant VM that was killed",
        "agent-away-12s": "SIGKILL, started again after 12 s",
        "agent-away-60s": "SIGKILL, started again after 60 s",
        "agent-killed-while-frozen": "SIGKILL while the guest is frozen; the guest is thawed before the agent is back",
        "agent-sigterm": "SIGTERM, as when a node is drained",
    },
    "libvirtd dies": {
        "libvirtd-sigkill": "SIGKILL, back after a second",
        "libvirtd-away-10s": "SIGKILL, back after 10 s",
        "libvirtd-away-60s": "SIGKILL, back after 60 s",
        "libvirtd-twice": "killed and started twice in a row: the job's result is lost",
        "libvirtd-loses-vm": "killed, and cannot read what it knew of the VM, which runs on: a human must help",
    },
    "QEMU dies, the guest or its owner stops the VM": {
        "qemu-sigkill": "SIGKILL, the VM is started again",
        "guest-shuts-down": "the guest powers itself off, the VM is started again",
        "domain-destroyed": "`virsh destroy`, the VM is started again",
        "domain-restarted-agent-away": "the VM is killed and started again while the agent is down",
    },
    "The node reboots": {
        "node-reboot-vm-first": "agent, libvirtd and QEMU killed at once; the VM is back before the agent",
        "node-reboot-agent-first": "agent, libvirtd and QEMU killed at once; the agent is back before the VM",
    },
    "The children that copy and check": {
        "copy-killed": "qemu-img convert is killed",
        "copy-hangs": "qemu-img convert hangs",
        "check-killed": "qemu-img check is killed",
    },
    "What a restore works on": {
        "restored-qemu-sigkill": "SIGKILL for the QEMU of the restored VM",
        "restored-node-reboot": "agent, libvirtd and the restored VM's QEMU killed at once",
        "images-full-before": "too little room for the images from the start",
        "images-full": "the file system of the images is full to the last byte",
        "images-full-for-a-while": "the file system of the images is full to the last byte for 6 s",
        "vm-started": "the VM is started, in Placing when one of two disks has changed; then shut down",
        "vm-started-agent-away": "the VM is started on a new and an old disk while the agent is down; then shut down",
        "set-location-away": "the location of the set is away for 6 s",
    },
    "Full, broken, hung and lost file systems": {
        "target-full-before": "too little room in the location from the start",
        "target-nearly-full": "the location fills up but for a rest",
        "target-full": "the location is full to the last byte",
        "target-read-only": "the location is read-only for 3 s",
        "target-removed": "the location's directory is removed and made again",
        "target-io-error": "every write to the location fails with EIO, then it is repaired",
        "target-io-error-overwrites": "the same, and the guest overwrites what is not copied yet: its writes fail",
        "target-io-error-overwrites-stop": "the same with error_policy='stop': its writes wait until it is home",
        "target-hangs": "the location does not answer",
        "source-nearly-full": "the disks' file system fills up while the VM is on its overlays",
        "source-full": "the disks' file system is full, the VM is paused by it; then there is room again",
        "overlay-too-large": "the guest writes more than spec.overlay.maxBytes",
    },
    "The API server": {
        "api-away": "away for 6 s",
        "api-away-60s": "away for 60 s",
        "api-away-agent-killed": "away, and the agent is killed and started again meanwhile",
        "api-killed": "SIGKILL, started again",
        "etcd-stopped-12s": "etcd is down for 12 s",
        "etcd-stopped-60s": "etcd is down for 60 s",
        "api-answers-429": "answers 429 for seconds",
        "api-answers-500": "answers 500 for seconds",
        "status-conflicts": "somebody else writes the resource all the time",
        "token-expired": "the agent's token is no longer good",
    },
    "What was asked for is taken back": {
        "vmbackup-deleted": "the VMBackup is deleted",
        "vmbackup-deleted-agent-killed": "the VMBackup is deleted while the agent is down",
        "vmbackup-torn-away": "the VMBackup is deleted and its finalizer removed by force",
        "location-deleted": "the VMBackupLocation is deleted",
        "vmrestore-deleted": "the VMRestore is deleted",
        "vmrestore-cancelled-agent-killed": "the VMRestore is cancelled, and the agent is killed while it undoes",
        "set-pruned": "retention lets the set go",
        "set-deleted": "the VMBackup of the set is deleted, and its set with it",
    },
    "The guest agent": {
        "guest-agent-silent": "never answers the freeze",
        "guest-agent-silent-required": "does not answer the freeze, which is required",
        "guest-agent-dies-frozen": "dies while the guest is frozen, is back after 8 s",
        "guest-agent-refuses": "answers with an error",
    },
    "Somebody works on the VM by hand": {
        "overlay-removed-by-hand": "our overlay is unlinked while the guest writes to it",
        "redefined-on-base": "the definition is replaced by one with the base, QEMU goes on",
        "diverged": "the same, and the VM is started again on the base: a human must decide",
        "transient-vm-dies": "a transient VM dies on the overlay: a human must decide",
        "undefined": "the VM is undefined and runs on",
        "vm-gone-for-good": "the VM is destroyed and undefined",
        "foreign-snapshot-on-top": "a stranger's snapshot on top of our overlay: a human must decide",
        "foreign-block-job": "a stranger's block job on a disk",
        "foreign-job-before": "a stranger's block job when the backup is asked for",
    },
    "The node's clock": {
        "clock-forward-1h": "set forward by an hour",
        "clock-back-1h": "set back by an hour",
        "clock-forward-1h-agent-killed": "set forward by an hour, and the agent is killed and started again",
        "clock-back-1h-agent-killed": "set back by an hour, and the agent is killed and started again",
    },
    "The controller dies": {
        "controller-sigkill": "SIGKILL, started again at once",
        "controller-away": "SIGKILL, started again when the time is over",
    },
    "Two agents on one node": {
        "second-agent": "a second agent is started by mistake",
        "second-agent-other-state": "the same with a state directory of its own",
        "second-agent-first-killed": "the first of two agents is killed",
    },
}


ALL = frozenset({"all"})
BORDERS = frozenset(
    {"push-Preparing", "push-Verifying", "push-Publishing", "snapshot-Preparing", "snapshot-Verifying"}
)  # phases in which the VM is not touched; Publishing of a snapshot stands for them

# What only `make fault-full` runs: rows that other rows of the same column, or shorter columns, stand for.
FULL_ONLY: dict[str, frozenset[str]] = {
    "agent-sigkill": frozenset(
        {"newdomain-Preparing", "newdomain-Verifying", "newdomain-Cleaning"}
        | {"disks-Preparing", "disks-Copying", "disks-Verifying", "disks-Placing", "disks-Cleaning"}
        | {"inplace-Preparing", "inplace-Verifying", "instant-Preparing", "instant-Verifying"}
    ),
    "agent-killed-twice": frozenset({"push-Freezing", "snapshot-Snapshotting", "snapshot-Cleaning"}),
    "agent-away-60s": ALL,
    "agent-sigterm": BORDERS | {"push-Freezing", "snapshot-Publishing"},
    "libvirtd-sigkill": BORDERS
    | {"snapshot-Publishing", "newdomain-Starting", "inplace-Preparing", "inplace-Copying", "instant-Defining"},
    "libvirtd-away-10s": frozenset({"push-Starting", "snapshot-Snapshotting", "snapshot-Committing"}),
    "libvirtd-away-60s": ALL,
    "qemu-sigkill": frozenset({"push-Preparing", "push-Publishing", "snapshot-Preparing", "snapshot-Verifying"}),
    "domain-destroyed": frozenset({"snapshot-Pivoting"}),
    "domain-restarted-agent-away": frozenset({"push-Starting", "snapshot-Snapshotting", "snapshot-Cleaning"}),
    "node-reboot-vm-first": BORDERS | {"push-Freezing", "push-Starting", "snapshot-Freezing"},
    "node-reboot-agent-first": frozenset({"snapshot-Snapshotting", "snapshot-Cleaning"}),
    "target-read-only": frozenset({"push-Verifying", "snapshot-Preparing", "snapshot-Verifying"}),
    "target-removed": frozenset({"push-Verifying", "snapshot-Verifying", "snapshot-Publishing"}),
    "target-io-error": frozenset({"push-Verifying", "snapshot-Verifying"}),
    "target-io-error-overwrites": ALL,
    "target-io-error-overwrites-stop": ALL,
    "api-away": BORDERS
    | {
        "push-Freezing",
        "snapshot-Freezing",
        "snapshot-Cleaning",
        "newdomain-Defining",
        "instant-Starting",
        "schedule-Made",
    },
    "api-away-60s": ALL,
    "api-away-agent-killed": frozenset({"snapshot-Snapshotting", "snapshot-Pivoting"}),
    "etcd-stopped-60s": ALL,
    "api-answers-429": frozenset({"snapshot-Copying"}),
    "api-answers-500": frozenset({"push-Copying", "snapshot-Committing"}),
    "vmbackup-deleted": frozenset(
        {
            "push-Preparing",
            "push-Starting",
            "push-Publishing",
            "snapshot-Preparing",
            "snapshot-Freezing",
            "snapshot-Pivoting",
            "snapshot-Verifying",
            "snapshot-Publishing",
        }
    ),
    "vmrestore-deleted": frozenset({"newdomain-Preparing", "newdomain-Placing", "disks-Copying", "disks-Placing"}),
    "vmrestore-cancelled-agent-killed": frozenset({"disks-Discarding"}),
    "images-full-before": frozenset({"newdomain-Preparing", "disks-Preparing", "instant-Preparing"}),
    "images-full": frozenset({"disks-Copying"}),
    "set-location-away": frozenset({"newdomain-Verifying", "instant-Preparing"}),
    "controller-away": ALL,
    "set-pruned": frozenset({"newdomain-Copying", "instant-Starting"}),
    "vmbackup-deleted-agent-killed": frozenset({"snapshot-Copying", "snapshot-Cleaning"}),
    "location-deleted": frozenset({"push-Starting", "push-Verifying", "snapshot-Copying"}),
    "redefined-on-base": frozenset({"snapshot-Committing", "snapshot-Cleaning"}),
    "clock-forward-1h": frozenset({"snapshot-Committing"}),
    "clock-back-1h": frozenset({"push-Copying", "snapshot-Copying"}),
    "clock-forward-1h-agent-killed": frozenset({"push-Copying"}),
    "clock-back-1h-agent-killed": frozenset({"push-Copying"}),
}


def is_full_only(fault: str, row: str) -> bool:
    """Return whether only `make fault-full` runs this cell; `row` as in "push-Copying"."""
    left_out = FULL_ONLY.get(fault, frozenset())
    return left_out is ALL or row in left_out


def group_of(fault: str) -> str:
    """Raises: KeyError: the matrix has no such column."""
    return {name: group for group, faults in FAULTS.items() for name in faults}[fault]
