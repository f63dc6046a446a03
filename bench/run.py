"""`make bench`: our engine and operator against virsh, virtnbdbackup and a shell script, in turns, in one run."""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from applying import Apply
from calm import Calm
from figures import Series, described
from restoring import Convert, Instant, Kept, Restore
from rich.console import Console
from rich.table import Table
from sides import CommandLine, Engine, Script, Virsh, Virtnbdbackup
from stage import DATA_BYTES, GIB, VIRTUAL_BYTES, Stage, operator, resident_mib, stage

from testbed.controlplane import ControlPlane
from testbed.namespace import UNSHARE

HERE = Path(__file__).resolve().parent
INSIDE = "VMBACKUP_BENCH_INSIDE"
NOISY = 0.2
TARGETS = {
    "push_vs_virsh": (1.10, ""),
    "push_vs_virtnbdbackup": (0.35, ""),
    "snapshot_vs_script": (1.0, ""),
    "restore_vs_qemu_img": (1.1, ""),
    "apply_to_start_seconds": (0.5, " s"),
    "apply_to_succeeded_vs_virsh": (1.35, ""),
    "instant_restore_seconds_small": (3.0, " s"),
    "instant_restore_seconds_large": (3.0, " s"),
    "agent_rss_mib": (110, " MiB"),
    "controller_rss_mib": (120, " MiB"),
}
# Name, size and data of the VMs that run at once from their sets.
INSTANT = (("small", GIB, GIB // 4), ("large", 20 * GIB, 4 * GIB))
INSTANT_ROUNDS = 5
Side = Callable[[], None]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="pairs of every series, at least 5 (default 9)")
    parser.add_argument(
        "--patience", type=float, default=20, metavar="SECONDS", help="wait so long for a calm moment (default 20)"
    )
    parser.add_argument("--output", type=Path, default=HERE / "results" / "latest.json")
    arguments = parser.parse_args()
    if arguments.rounds < 5:
        parser.error("a median of fewer than 5 says little")
    if INSIDE not in os.environ:
        # A PID namespace of our own: whatever happens, nothing of this stays behind.
        return subprocess.run(
            [*UNSHARE, sys.executable, *sys.argv], check=False, env=os.environ | {INSIDE: "1"}
        ).returncode
    with stage(Path(os.environ.get("VMBACKUP_BENCH_DIR", "/var/tmp/vmbackup-operator-bench")).resolve()) as made:
        results = measure(made, arguments.rounds, Calm(arguments.patience))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(results, indent=2) + "\n")
    show(Console(), results)
    return 0


def measure(stage: Stage, rounds: int, calm: Calm) -> dict[str, Any]:
    """Return the whole content of the results file."""
    push, snapshot = Engine(stage, "Push"), Engine(stage, "Snapshot")
    virsh = Virsh(stage)
    plan: dict[str, tuple[Side, Side]] = {
        "push_vs_virsh": (push, virsh),
        "push_command_vs_virsh": (CommandLine(stage, "Push"), virsh),
        "push_vs_virtnbdbackup": (push, Virtnbdbackup(stage)),
        "snapshot_vs_script": (snapshot, Script(stage)),
    }
    series = {name: in_turns(stage, calm, name, sides, rounds) for name, sides in plan.items()}
    kept = Kept(stage)
    name = "restore_vs_qemu_img"
    series[name] = in_turns(stage, calm, name, (Restore(stage, kept), Convert(stage, kept)), rounds)
    with operator(stage) as cluster:
        apply = Apply(stage, cluster)
        name = "apply_to_succeeded_vs_virsh"
        series[name] = in_turns(stage, calm, name, (apply, virsh), rounds)
        resident = {f"{role}_rss_mib": round(resident_mib(role), 1) for role in ("agent", "controller")}
        instant = {name: at_once(stage, cluster, calm, name, *sizes) for name, *sizes in INSTANT}
    figures = {name: round(each.ratio, 3) for name, each in series.items() if name in TARGETS}
    # The first of each was to warm up and is in no figure.
    figures["apply_to_start_seconds"] = round(statistics.median(apply.to_start[1:]), 3)
    figures |= {
        f"instant_restore_seconds_{name}": round(statistics.median(taken), 3) for name, taken in instant.items()
    }
    figures |= resident
    return {
        **{name: figures[name] for name in TARGETS},
        "met": {name: figures[name] <= target for name, (target, _) in TARGETS.items()},
        "targets": {name: target for name, (target, _) in TARGETS.items()},
        "details": {
            "series": {name: each.report() for name, each in series.items()},
            "apply_to_start_seconds": described(apply.to_start[1:]),
            "kubectl_apply_seconds": described(apply.kubectl[1:]),
            "instant_restore_seconds": {name: described(taken) for name, taken in instant.items()},
            "engine_attempts_that_failed": push.troubles + snapshot.troubles,
            "engine_phases_seconds": {"push": medians(push.phases[1:]), "snapshot": medians(snapshot.phases[1:])},
        },
        "circumstances": {**circumstances(stage, rounds), "disturbed": f"{calm.disturbed} of {calm.samples} samples"},
    }


def in_turns(stage: Stage, calm: Calm, name: str, sides: tuple[Side, Side], rounds: int) -> Series:
    """Measure A B, B A, A B …, after one of each to warm up: nobody always follows the same neighbour."""
    series = Series()
    for number in range(rounds + 1):
        if number % 2:
            theirs, ours = (seconds(stage, calm, side) for side in reversed(sides))
        else:
            ours, theirs = (seconds(stage, calm, side) for side in sides)
        print(f"{name} {number}/{rounds}: {ours:.2f} s, {theirs:.2f} s{'' if number else ' (to warm up)'}", flush=True)
        if number:
            series.ours.append(ours)
            series.theirs.append(theirs)
    return series


def at_once(
    stage: Stage, cluster: ControlPlane, calm: Calm, name: str, virtual_bytes: int, data_bytes: int
) -> list[float]:
    """Restore a VM of this size at once, some times; return the seconds of each until it ran."""
    instant = Instant(stage, cluster, name, virtual_bytes, data_bytes)
    taken = []
    for number in range(INSTANT_ROUNDS):
        calm.wait()
        taken.append(instant.seconds())
        print(f"instant restore, {name} {number + 1}/{INSTANT_ROUNDS}: {taken[-1]:.2f} s", flush=True)
    return taken


def seconds(stage: Stage, calm: Calm, side: Side) -> float:
    stage.prepare()
    calm.wait()
    begun = time.perf_counter()
    side()
    return time.perf_counter() - begun


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    names = {name: None for run in runs for name in run}
    return {name: round(statistics.median(run.get(name, 0.0) for run in runs), 3) for name in names}


def circumstances(stage: Stage, rounds: int) -> dict[str, Any]:
    """Return what one must know to judge the figures."""
    models = (line.split(":")[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line)
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": f"make bench (bench/run.py --rounds {rounds})",
        "commit": said("git", "describe", "--always", "--dirty"),
        "rounds": rounds,
        "disk": f"qcow2, {VIRTUAL_BYTES // GIB} GiB with {DATA_BYTES // GIB} GiB of data, of an idle domain",
        "page_cache": "before every sample: sync, then the source is read once; so it is warm for all",
        "durable": "every side ends with an fsync of what it wrote",
        "engine": "in this process, from the request to the published set, verify: Check",
        "file_system": said("stat", "--file-system", "--format=%T", str(stage.state)),
        "cpu": f"{os.cpu_count()} x {next(models, ' ' + platform.machine()).strip()}",
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "libvirt": said("virsh", "--version"),
        "qemu": said("qemu-img", "--version").splitlines()[0],
        "virtnbdbackup": said("virtnbdbackup", "--version"),
        "noise": "a sample waits for a while until 75 % of the processors' time are idle",
    }


def said(*command: str) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE)
    return ended.stdout.strip() or ended.stderr.strip() or "unknown"


def show(console: Console, results: dict[str, Any]) -> None:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="bold")
    for heading in ("figure", "measured", "target", ""):
        table.add_column(heading, justify="left" if heading in ("figure", "") else "right")
    for name, (target, unit) in TARGETS.items():
        verdict = "[green]met[/green]" if results["met"][name] else "[red]missed[/red]"
        table.add_row(name, f"{results[name]:.2f}{unit}", f"<= {target:.2f}{unit}", verdict)
    console.print()
    console.print(table)
    phases = results["details"]["engine_phases_seconds"]
    for method, parts in phases.items():
        console.print(f"\n{method}, seconds by phase: " + ", ".join(f"{name} {part}" for name, part in parts.items()))
    noisy = {
        f"{name} ({side})": each[f"{side}_seconds"]["spread"]
        for name, each in results["details"]["series"].items()
        for side in ("ours", "theirs")
        if each[f"{side}_seconds"]["spread"] > NOISY
    }
    for trouble in results["details"]["engine_attempts_that_failed"]:
        console.print(f"\nAn attempt of the engine failed and was made again: {trouble}", markup=False)
    console.print(f"\nDisturbed by others: {results['circumstances']['disturbed']}")
    if noisy:
        console.print(f"Noisy (quartiles apart by more than {NOISY:.0%} of the median): {noisy}")


if __name__ == "__main__":
    sys.exit(main())
