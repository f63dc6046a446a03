"""docs/metrics.md tells every metric that is shown, and none that is not; names and labels follow Prometheus' rules."""

import json
import re

import pytest

from unit.documents import ROOT, fences, sections, table
from vmbackup.core.metrics import AGENT, CONTROLLER, Metric
from vmbackup.door.logs import FIELDS
from vmbackup.door.metrics import Metrics

TEXT = (ROOT / "docs/metrics.md").read_text()
ALL = (*CONTROLLER, *AGENT)
each_metric = pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)


@pytest.mark.parametrize(("heading", "metrics"), [("Of the controller", CONTROLLER), ("Of the agents", AGENT)])
def test_table_is_that_of_the_code(heading: str, metrics: tuple[Metric, ...]) -> None:
    rows = [[cell.strip("`") for cell in row] for row in table(sections(TEXT)[heading])]
    labels = {
        metric: ", ".join(f"`{label}`" for label in metric.labels).strip("`") or "\N{EN DASH}" for metric in metrics
    }
    assert rows == [[metric.name, metric.type, labels[metric], metric.help] for metric in metrics]


def names_shown() -> set[str]:
    shown = re.findall(r"^# TYPE (\w+) (\w+)$", Metrics(ALL).page().body.decode(), re.MULTILINE)
    parts = {f"{name}_{part}" for name, type_ in shown if type_ == "histogram" for part in ("bucket", "count", "sum")}
    return {name for name, _ in shown} | parts


def test_no_metric_is_named_that_is_not_shown() -> None:
    named = set(re.findall(r"\b(?:vmbackup|process)_[a-z_]+[a-z]\b", TEXT))
    assert {metric.name for metric in ALL} <= named
    assert named - names_shown() == set()


def test_no_alert_and_no_panel_asks_for_a_metric_that_is_not_shown() -> None:
    files = [path for folder in ("helm", "manifests") for path in (ROOT / folder).rglob("*") if path.is_file()]
    asked = {
        name for path in files for name in re.findall(r"\bvmbackup_[a-z_]+[a-z]\b", path.read_text(errors="replace"))
    }
    assert {"vmbackup_merge_debts", "vmbackup_last_success_timestamp_seconds"} <= asked
    assert asked - names_shown() == set()


@each_metric
def test_name_and_labels_are_as_prometheus_wants_them(metric: Metric) -> None:
    assert re.fullmatch(r"vmbackup(_[a-z]+)+", metric.name)
    assert metric.name.endswith("_total") == (metric.type == "counter")
    assert bool(metric.buckets) == (metric.type == "histogram")
    assert list(metric.buckets) == sorted(metric.buckets)
    assert set(metric.labels) <= {"result", "method", "namespace", "vm", "node", "resource", "call", "kind"}
    assert metric.help.endswith(".")


def test_line_of_the_log_has_the_fields_that_are_told() -> None:
    (example,) = [json.loads(fence.text) for fence in fences(TEXT) if fence.language == "json"]
    told = {name for row in table(sections(TEXT)["Logs"]) for name in re.findall(r"`(\w+)`", row[0])}
    assert set(example) | {"traceback"} == told
    assert set(FIELDS) <= told
