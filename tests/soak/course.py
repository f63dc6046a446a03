"""One soak from its plan to its summary."""

import argparse
import json
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import libvirt

from soak.faults import keep_running
from soak.history import History
from soak.lost import help_lost_vms
from soak.plan import draw
from soak.record import Record
from soak.scene import Scene, raised
from soak.sets import Sets
from soak.settling import digest_of, epilogue, judge_disks, judge_sets, settle
from soak.storm import Storm
from soak.watch import Watch

OPERATOR = Path(__file__).resolve().parents[2] / "operator"
TALK_SECONDS = 30.0


def main() -> int:
    arguments = _arguments()
    directory = arguments.directory or Path(tempfile.mkdtemp(prefix=f"vmbackup-soak-{arguments.seed}-", dir="/var/tmp"))
    record = Record(directory)
    libvirt.registerErrorHandler(lambda *_: None, None)  # what libvirt says is in the exceptions too
    directory.chmod(0o755)  # the qemu user must pass
    _print(f"seed {arguments.seed}, {arguments.seconds:.0f} s, logs in {directory}")
    work = directory / "work"
    # The code as it is now: a restarted program must not be another one because somebody edits meanwhile.
    shutil.copytree(OPERATOR, directory / "operator", ignore=shutil.ignore_patterns("__pycache__"))
    os.environ["PYTHONPATH"] = str(directory / "operator")
    try:
        with raised(directory, work) as scene:
            record.witness = scene.witness
            watch, history = _soak(scene, record, arguments)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    _tell(record, history, watch, arguments.seed)
    return 1 if record.violations else 0


def _soak(scene: Scene, record: Record, arguments: argparse.Namespace) -> tuple[Watch, History]:
    seed, seconds = arguments.seed, arguments.seconds
    golden_digest = digest_of(scene.golden)
    plan = draw(seed, seconds, {guest.name: guest.targets for guest in scene.guests.values()})
    if arguments.calm:
        plan = replace(plan, strikes={})
    history, sets, watch = History(scene, record), Sets(scene, record), Watch(scene, record)
    storm = Storm(scene, history, record)
    record.begin()
    for look in (history.watch, sets.watch, watch.watch):
        storm.accompany(partial(look, storm.still))
    storm.stay(lambda: keep_running(scene, storm.still, record.say))
    storm.stay(lambda: help_lost_vms(scene, storm.still, record))
    storm.begin(plan, seed)
    while record.seconds < seconds and not storm.over.wait(min(TALK_SECONDS, max(0.1, seconds - record.seconds))):
        _print(f"{record.seconds:5.0f} s: {dict(record.counts)}, {len(record.violations)} violation(s)")
    storm.end()
    _print(f"{record.seconds:5.0f} s: the storm is over")
    record.say("the storm is over")
    settle(scene, history, record)
    epilogue(scene, history, record)
    settle(scene, history, record)
    storm.close()
    sets.look()
    sets.compare_all()
    judge_sets(history, sets, record)
    judge_disks(scene, record, golden_digest)
    watch.read_logs()
    return watch, history


def _tell(record: Record, history: History, watch: Watch, seed: str) -> None:
    rss = {
        name: f"{weights[0] >> 20} -> {weights[-1] >> 20} MiB, at most {max(weights) >> 20}"
        for name, weights in watch.rss_bytes.items()
    }
    tables: dict[str, Mapping[str, object]] = {
        "counts": record.counts,
        "ends": dict(history.ends().most_common()),
        "faults": dict(record.faults.most_common()),
        "resident memory": rss,
    }
    _print(f"seed {seed}: {len(record.violations)} violation(s)")
    for title, rows in tables.items():
        _print(f"{title}:")
        for name, value in rows.items():
            _print(f"  {value!s:>6}  {name}")
    for violation in record.violations:
        _print(f"VIOLATION {violation.kind}: {violation.subject}: {violation.words[:300]}\n  see {violation.evidence}")
    summary = {"seed": seed, **tables, "violations": [each._asdict() for each in record.violations]}
    (record.directory / "summary.json").write_text(json.dumps(summary, indent=1, default=str))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Back up VMs under random faults.")
    parser.add_argument("--seconds", type=float, default=300, help="length of the storm (default 300)")
    parser.add_argument("--seed", default=secrets.token_hex(4), help="the same seed draws the same plan")
    parser.add_argument("--directory", type=Path, help="for logs and findings (default: a new one in /var/tmp)")
    parser.add_argument("--calm", action="store_true", help="backups only, no faults: to watch the memory")
    return parser.parse_args()


def _print(words: str) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()
