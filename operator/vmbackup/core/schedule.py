"""When a schedule runs: from its spec, what it remembers and the time to what is to be done now. A pure function.

All that is remembered is in the status, and children are named by the time that they are for: a controller that dies
between the two, or two controllers at once, make nothing twice.
"""

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import translate
from itertools import islice

from vmbackup.api.host import VMHost
from vmbackup.api.schedule import VMBackupSchedule, VMSelector
from vmbackup.core.cron import Timer
from vmbackup.core.kstatus import epoch, rfc3339

MOST_MISSED = 100  # counted one by one; more are "at least"
CLOCK_SECONDS = 3600.0  # a clock that went back by less is waited for
LONGEST_CHILD_NAME = 63
_PLAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


@dataclass(frozen=True)
class Run:
    """One run. `mark`: what its children are named by; `at`: its time by the schedule, None for a trigger."""

    mark: str
    at: float | None = None
    trigger: str = ""


@dataclass(frozen=True)
class Missed:
    """Runs that were left out. `at_least`: there may be more."""

    count: int
    last: float
    at_least: bool
    too_late: bool = False


@dataclass(frozen=True)
class Plan:
    """What is to be done now. Times in seconds since the epoch; `since`: scheduled times up to it are over.

    next_at: when the next run begins, jitter included. text: the timetable in force. jumped: the clock went far back.
    """

    runs: tuple[Run, ...]
    missed: Missed | None
    since: float
    text: str
    next_at: float | None
    jumped: bool = False


def plan(schedule: VMBackupSchedule, now: float) -> Plan:
    """Return what is to be done now. Raises: ValueError: schedule or time zone are none, in words."""
    spec, status = schedule.spec, schedule.status
    timer = Timer(spec.schedule, spec.time_zone)
    text = "" if spec.suspend else f"{spec.schedule} {spec.time_zone}"
    triggered = _triggered(schedule)
    offset = jitter(schedule.metadata.uid, spec.jitter_seconds)
    if status.timetable is None:
        since = epoch(schedule.metadata.creation_timestamp)
    else:
        since = epoch(status.timetable.since) if status.timetable.text == text else now
    jumped = since > now + CLOCK_SECONDS
    if jumped:
        since = now
    if spec.suspend:
        return Plan(triggered, None, since, text, None, jumped)
    due = timer.last(since, now - offset)
    missed = None
    runs = triggered
    if due is not None:
        deadline = spec.starting_deadline_seconds
        too_late = deadline is not None and now - (due + offset) > deadline
        missed = _missed(timer, since, due, too_late=too_late)
        since = due
        if not too_late:
            runs = (*triggered, Run(str(int(due // 60)), due))
    following = timer.next(max(since, now - offset))
    return Plan(runs, missed, since, text, None if following is None else following + offset, jumped)


def _triggered(schedule: VMBackupSchedule) -> tuple[Run, ...]:
    trigger = schedule.spec.trigger
    if not trigger or trigger == schedule.status.last_trigger:
        return ()
    return (Run(f"run-{_digest(trigger)}", trigger=trigger),)


def _missed(timer: Timer, since: float, due: float, *, too_late: bool) -> Missed | None:
    """Count the times before the one that is made up for, and that one too when it is too late for it."""
    times = list(islice((time for time in _until(timer, since, due, including=too_late)), MOST_MISSED + 1))
    if not times:
        return None
    at_least = len(times) > MOST_MISSED
    last = due if too_late else (times[-1] if not at_least else due)
    return Missed(min(len(times), MOST_MISSED), last, at_least, too_late)


def _until(timer: Timer, since: float, due: float, *, including: bool) -> Iterable[float]:
    for time in timer.after(since):
        if time > due or (time == due and not including):
            return
        yield time


def jitter(uid: str, most_seconds: int) -> float:
    """Return how much later than its times a schedule runs: always the same for one UID, in whole seconds."""
    return float(int(_digest(uid), 16) % (most_seconds + 1))


def missed_words(missed: Missed) -> str:
    """Return what was missed, for an Event."""
    count = f"{'at least ' if missed.at_least else ''}{missed.count}"
    fate = "too late for startingDeadlineSeconds" if missed.too_late else "only the last one is made up for"
    return (
        f"{count} run(s) up to {rfc3339(missed.last)} were missed: {fate}. Was the controller or the API server down?"
    )


def covered(selector: VMSelector, seen: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the VMs that a run is for now; named ones whether they are seen or not.

    seen: names of all VMs of the schedule's namespace.
    """
    excluded = _matcher(selector.exclude)
    if selector.names:
        return tuple(name for name in selector.names if not excluded(name))
    wanted = _matcher(selector.match)
    return tuple(sorted(name for name in set(seen) if wanted(name) and not excluded(name)))


def seen_vms(hosts: Iterable[VMHost]) -> dict[str, set[str]]:
    """Return the names of all domains by namespace, whether their agent is heard of at present or not."""
    return by_namespace((vm.namespace, vm.name) for host in hosts for vm in host.status.vms)


def by_namespace(vms: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """Return names by namespace; what belongs to none is left out."""
    seen: dict[str, set[str]] = {}
    for namespace, name in vms:
        if namespace:
            seen.setdefault(namespace, set()).add(name)
    return seen


def child_name(schedule: str, vm: str, mark: str, *, plain: bool = True) -> str:
    """Return the name of the VMBackup of one VM in one run.

    Long or unusual names of VMs are told apart by a hash; so is every name with `plain=False`, for the case that
    another schedule has taken the plain one: `a` with VM `b-c` and `a-b` with VM `c` want the same.
    """
    room = LONGEST_CHILD_NAME - len(schedule) - len(mark) - 2
    if plain and len(vm) <= room and _PLAIN.fullmatch(vm):
        return f"{schedule}-{vm}-{mark}"
    words = re.sub(r"[^a-z0-9]+", "-", vm.lower()).strip("-")
    cut = words[: max(0, room - 9)].strip("-")
    return "-".join(part for part in (schedule, cut, _digest(f"{schedule}/{vm}"), mark) if part)


def _matcher(globs: Iterable[str]) -> Callable[[str], bool]:
    patterns = [re.compile(translate(glob)) for glob in globs]
    return lambda name: any(pattern.match(name) for pattern in patterns)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
