"""Which sets of one VM are kept, and why. A pure function; the rules count as `restic forget --keep-*` does.

From the newest set to the oldest, each rule keeps the first set of every period (hour, day, ISO week, month, year) that
it meets, until it has kept as many as it may. Periods without a set do not count. A set that any rule keeps stays.
A set known to be broken is outside of all that: it takes nobody's place, and it is never removed unasked.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from vmbackup.api.retention import KeepRules, Retention


@dataclass(frozen=True)
class BackupSet:
    """One finished set. `at`: the moment that it shows, seconds since the epoch.

    held: who holds it, in words, empty for nobody. in_use: what it is used for at present, empty for nothing.
    """

    name: str
    at: float
    verified: bool = True
    broken: bool = False
    held: str = ""
    in_use: str = ""


@dataclass(frozen=True)
class Verdict:
    """Keep it or remove it, and every reason in words. `rules`: the names of the rules that keep it."""

    set: BackupSet
    keep: bool
    reasons: tuple[str, ...]
    rules: tuple[str, ...] = ()


@dataclass(frozen=True)
class Floor:
    """The least that is kept, whatever a schedule says. `source`: who says so, in words."""

    source: str
    rules: KeepRules


@dataclass
class _Rule:
    """One rule on its way from the newest set to the oldest."""

    name: str
    most: int
    period: Callable[[datetime, int], str]
    source: str = ""
    kept: int = 0
    last_period: str | None = None
    last_set: str = ""

    def take(self, one: BackupSet, at: datetime, number: int) -> tuple[bool, str]:
        """Return whether the rule keeps the set, and why or why not in words."""
        period = self.period(at, number)
        if self.kept >= self.most:
            return False, f"{self.source}{self.name}: {self.most} newer kept"
        if period == self.last_period:
            return False, f"{self.source}{self.name}: {period} is kept by the newer {self.last_set}"
        self.kept += 1
        self.last_period, self.last_set = period, one.name
        which = f"{self.source}{self.name} {self.kept} of {self.most}"
        return True, which if self.name == "last" else f"{which}: the newest of {period}"


@dataclass
class _Minimum:
    """The newest verified sets, which no rule may take away."""

    most: int
    kept: int = 0

    def take(self, one: BackupSet) -> str:
        """Return why the set is kept, empty when it is not for this."""
        if not one.verified or self.kept >= self.most:
            return ""
        self.kept += 1
        return f"verified {self.kept} of {self.most}: never removed"


def judge(sets: Iterable[BackupSet], retention: Retention, floors: Sequence[Floor] = ()) -> list[Verdict]:
    """Return the verdict on every set of one VM, the newest first.

    Raises: zoneinfo.ZoneInfoNotFoundError: there is no such time zone.
    """
    ordered = sorted(sets, key=lambda one: (one.at, one.name), reverse=True)
    counted = [one for one in ordered if not one.broken]
    every = [(_rules(retention), ZoneInfo(retention.time_zone))]
    every += [(_rules(floor.rules, floor.source), ZoneInfo(floor.rules.time_zone)) for floor in floors]
    unlimited = not every[0][0]
    minimum = _Minimum(retention.min_verified)
    verdicts = {}
    for number, one in enumerate(counted):
        took: list[tuple[str, str]] = [("all", "no rule says what to remove")] if unlimited else []
        missed: list[str] = []
        for rules, zone in every:
            at = datetime.fromtimestamp(one.at, zone)
            for rule in rules:
                taken, why = rule.take(one, at, number)
                if taken:
                    took.append((rule.name, why))
                else:
                    missed.append(why)
        if why := minimum.take(one):
            took.append(("verified", why))
        took += [(rule, why) for rule, why in (("held", one.held), ("in use", one.in_use)) if why]
        keep = bool(took)
        verdicts[one.name] = Verdict(
            one, keep, tuple(why for _, why in took) if keep else tuple(missed), tuple(rule for rule, _ in took)
        )
    return [verdicts.get(one.name) or _broken(one) for one in ordered]


def _broken(one: BackupSet) -> Verdict:
    why = "broken: it counts for no rule, and is kept until somebody has looked at it and deletes it"
    return Verdict(one, keep=True, reasons=(why,), rules=("broken",))


def _rules(rules: KeepRules, source: str = "") -> list[_Rule]:
    source = f"{source}: " if source else ""
    counts = (
        ("last", rules.keep_last, _number),
        ("hourly", rules.keep_hourly, _hour),
        ("daily", rules.keep_daily, _day),
        ("weekly", rules.keep_weekly, _week),
        ("monthly", rules.keep_monthly, _month),
        ("yearly", rules.keep_yearly, _year),
    )
    return [_Rule(name, most, period, source) for name, most, period in counts if most]


def _number(at: datetime, number: int) -> str:
    return str(number)


def _hour(at: datetime, number: int) -> str:
    return at.strftime("%Y-%m-%d %H:00")  # the hour that a change of clocks repeats is one hour, as in restic


def _day(at: datetime, number: int) -> str:
    return at.strftime("%Y-%m-%d")


def _week(at: datetime, number: int) -> str:
    year, week, _ = at.isocalendar()
    return f"{year}-W{week:02d}"


def _month(at: datetime, number: int) -> str:
    return at.strftime("%Y-%m")


def _year(at: datetime, number: int) -> str:
    return at.strftime("%Y")
