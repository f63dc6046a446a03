"""How the demo speaks: on a terminal in colours, elsewhere as plain lines."""

import datetime
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from testbed.proof import Set
from vmbackup.api.vmbackup import VMBackup
from vmbackup.units import human_bytes

MOMENTS = {
    "started": "apply → the agent begins",
    "pointInTime": "apply → point in time",
    "published": "apply → published",
}


def title(console: Console, number: str, words: str) -> None:
    console.print()
    console.print(Text.assemble((f" {number} ", "bold reverse"), (f" {words}", "bold")))


def subject(console: Console, name: str, words: str) -> None:
    console.print(Text.assemble((name, "bold"), f"  {words}"), soft_wrap=True)


def command(console: Console, line: str, remark: str = "") -> None:
    console.print(Text.assemble("$ ", (line, "bold"), (f"   # {remark}" if remark else "", "dim")), soft_wrap=True)


def plain(console: Console, text: str) -> None:
    """Print what another program said, as it is."""
    console.print(text.rstrip("\n"), markup=False, highlight=False, soft_wrap=True)


def finding(console: Console, good: bool, words: str) -> None:
    mark = Text(" ✔ ", "green") if good else Text(" ✘ ", "bold red")
    console.print(Text.assemble(mark, words), soft_wrap=True)


def tree(console: Console, root: Path, directories: Sequence[Path]) -> None:
    """Print the files of the sets with the bytes that they occupy."""
    console.print()
    shown = Tree(Text(str(root), "bold"))
    for directory in directories:
        branch = shown.add(Text(str(directory.relative_to(root)), "cyan"))
        for file in sorted(directory.iterdir()):
            branch.add(Text(f"{file.name:<14}{human_bytes(file.stat().st_blocks * 512):>10}"))
    console.print(shown, soft_wrap=True)


def manifest(console: Console, backup: Set) -> None:
    console.print()
    command(console, f"cat {backup.directory.name}/manifest.json")
    console.print_json(json.dumps(backup.manifest))


def times(console: Console, rows: Sequence[tuple[float, VMBackup, Set]]) -> None:
    """Print how long everything took; a row has the moment of `kubectl apply`, the resource and the set."""
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("time taken", no_wrap=True)
    for _, backup, _ in rows:
        table.add_column(backup.metadata.name, justify="right", overflow="fold")
    for key, words in MOMENTS.items():
        seconds = (_epoch(found.manifest[key]) - asked_at for asked_at, _, found in rows)
        table.add_row(words, *(f"{each:.2f} s" for each in seconds))
    table.add_row("guest frozen", *(_milliseconds(backup.status.frozen_milliseconds) for _, backup, _ in rows))
    table.add_row("VM on overlays", *(_milliseconds(backup.status.overlay_milliseconds) for _, backup, _ in rows))
    console.print()
    console.print(table)


def next_steps(console: Console, name: str, *, own_cluster: bool) -> None:
    rows = [
        ("kubectl get vmb -A -o wide", "all backups"),
        (f"kubectl -n demo describe vmb {name}", "conditions and events of one"),
        ("kubectl explain vmb.spec", "what can be asked for"),
        ("make demo", "once more, with new names"),
    ]
    if own_cluster:
        rows.insert(0, ('eval "$(make env)"', "let kubectl and virsh of this shell use this cluster"))
        rows.insert(4, ("virsh list; virsh domblklist demo_web", "the VMs, as libvirt sees them"))
        rows.append(("make down", "end everything and leave nothing"))
    width = max(len(line) for line, _ in rows)
    for line, words in rows:
        console.print(Text.assemble("  ", (line.ljust(width), "bold"), "   ", (words, "dim")), soft_wrap=True)


def _milliseconds(value: int | None) -> str:
    return "-" if value is None else f"{value} ms"


def _epoch(text: str) -> float:
    return datetime.datetime.fromisoformat(text).timestamp()
