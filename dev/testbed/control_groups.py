"""Control groups for a kubelet that shares the machine with others."""

from pathlib import Path

CONTROL_GROUPS = Path("/sys/fs/cgroup")


def make_control_groups(name: str) -> None:
    """Make the group below which a kubelet makes its own, in every hierarchy of the machine."""
    for hierarchy in _hierarchies():
        (hierarchy / name).mkdir(exist_ok=True)


def remove_control_groups(name: str) -> str:
    """Return shell lines that remove a group and what is below it, once nothing runs in it."""
    found = " ".join(f"{hierarchy}/{name}" for hierarchy in _hierarchies())
    return (
        f"for i in $(seq 50); do find {found} -depth -type d -exec rmdir {{}} + 2>/dev/null && break; sleep 0.1; done"
    )


def _hierarchies() -> list[Path]:
    """Return the mounted hierarchies: one (version 2), or one per controller (version 1)."""
    if (CONTROL_GROUPS / "cgroup.controllers").exists():
        return [CONTROL_GROUPS]
    return [path for path in CONTROL_GROUPS.iterdir() if path.is_dir() and not path.is_symlink()]
