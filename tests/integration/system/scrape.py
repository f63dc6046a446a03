"""Reading a process as Prometheus does: its page is parsed by the library's own parser."""

import re
import urllib.error
import urllib.request
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from integration.system.backup import eventually
from integration.system.programs import Program

Series = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def address(program: Program) -> str:
    """Return where a process that runs shows its metrics, as it says in its log; port 0 gave it any."""
    found = re.findall(
        r"metrics are shown on (\S+) port (\d+)", program.log.read_text() if program.log.exists() else ""
    )
    return "http://{}:{}".format(*found[-1]) if found else ""


class Scrape:
    """One look at all metrics of a process."""

    def __init__(self, program: Program) -> None:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            f"{address(program)}/metrics", timeout=10
        ) as answer:
            families = text_string_to_metric_families(answer.read().decode())
            self._series: Series = {
                (sample.name, frozenset(sample.labels.items())): sample.value
                for family in families
                for sample in family.samples
            }

    def value(self, name: str, **labels: str) -> float | None:
        """Return the value of one sample, None when there is none."""
        return self._series.get((name, frozenset(labels.items())))

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of all samples with at least these labels."""
        return sum(
            value for (each, its), value in self._series.items() if each == name and labels.items() <= dict(its).items()
        )


def shows(program: Program, name: str, value: float | None, **labels: str) -> None:
    """Return as soon as a process shows a sample with this value (None: shows no such sample)."""
    seen: list[object] = []

    def as_expected() -> bool:
        try:
            seen[:] = [Scrape(program).value(name, **labels)]
        except (OSError, ValueError) as away:  # it is just starting
            seen[:] = [away]
        return seen == [value]

    try:
        eventually(as_expected, "")
    except AssertionError:
        raise AssertionError(f"{name}{labels} is {seen}, not {value}") from None
