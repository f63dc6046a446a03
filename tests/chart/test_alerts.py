"""The alerts, by promtool; and that alerts and dashboard ask for metrics that there are."""

import json
import re
from pathlib import Path

import pytest
import yaml

from chart.programs import CHART, ROOT, Refused, call, only, render
from unit.documents import sections
from vmbackup.api.vmbackup import Outcome
from vmbackup.core import metrics
from vmbackup.core.samples import ABANDONED

ALERTS = CHART / "files/alerts.yaml"
RULES = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((CHART / "files/dashboard.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
CASES = sorted(Path(__file__).parent.glob("alerts/*.yaml"))
KNOWN = {metric.name: metric for metric in (*metrics.CONTROLLER, *metrics.AGENT)}


def selected(query: str) -> dict[str, set[str]]:
    """Return the metrics that a query reads, without the endings of histograms, and the labels it selects by."""
    found: dict[str, set[str]] = {}
    for name, _, inside in re.findall(r"(vmbackup_\w+)(\{([^}]*)\})?", query):
        base = re.sub(r"_(bucket|count|sum)$", "", name) if name not in KNOWN else name
        found.setdefault(base, set()).update(re.findall(r"(\w+)=", inside))
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_alert_fires_when_it_should_and_only_then(case: Path) -> None:
    call("promtool", "test", "rules", str(case))


def test_promtool_notices_a_wrong_alert(tmp_path: Path) -> None:
    rules = ALERTS.read_text().replace("> 600", "> 6000")
    (tmp_path / "alerts.yaml").write_text(rules)
    case = CASES[-1].read_text().replace("../../../helm/vmbackup-operator/files/alerts.yaml", "alerts.yaml")
    (tmp_path / "case.yaml").write_text(case)
    with pytest.raises(Refused, match="VMBackupMergeDebtOld"):
        call("promtool", "test", "rules", "case.yaml", at=tmp_path)


def test_every_alert_is_tested() -> None:
    cases = [test for case in CASES for test in yaml.safe_load(case.read_text())["tests"]]
    fired = {one["alertname"] for test in cases for one in test["alert_rule_test"] if one["exp_alerts"]}
    assert fired == {rule["alert"] for rule in RULES}


@pytest.mark.parametrize("query", [*(rule["expr"] for rule in RULES), *QUERIES])
def test_query_reads_what_is_there(query: str) -> None:
    read = selected(query)
    assert read
    for name, labels in read.items():
        assert name in KNOWN
        assert labels <= {*KNOWN[name].labels, "le"}
        grouped = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", query)))) if len(read) == 1 else set()
        assert grouped <= {*KNOWN[name].labels, "le", "pod"}


def test_bucket_that_an_alert_reads_is_one() -> None:
    buckets = re.findall(r'vmbackup_frozen_seconds_bucket\{le="([\d.]+)"\}', ALERTS.read_text())
    assert buckets
    assert {float(bucket) for bucket in buckets} <= set(metrics.FROZEN.buckets)


def test_result_that_is_named_is_one() -> None:
    (failures,) = re.findall(r'result=~"([\w|]+)"', ALERTS.read_text())
    assert set(failures.split("|")) == {Outcome.FAILED, Outcome.STRANDED, ABANDONED}


def test_runbook_is_a_section_of_the_operations_guide() -> None:
    guide = sections((ROOT / "docs/operations.md").read_text())
    assert {rule["annotations"]["runbook"] for rule in RULES} <= set(guide)


def test_chart_ships_the_alerts_as_they_are_tested() -> None:
    chosen = {"metrics": {"rules": {"enabled": True}}}
    assert only(render(chosen), "PrometheusRule")["spec"] == yaml.safe_load(ALERTS.read_text())


def test_age_of_the_last_backup_can_be_chosen() -> None:
    chosen = {"metrics": {"rules": {"enabled": True, "maxAgeHours": 170}}}
    (group,) = only(render(chosen), "PrometheusRule")["spec"]["groups"]
    (rule,) = (rule for rule in group["rules"] if rule["alert"] == "VMBackupTooOld")
    assert rule["expr"].endswith(" > 612000")


def test_dashboard_is_shipped_whole() -> None:
    shipped = only(render({"metrics": {"dashboard": {"enabled": True}}}), "ConfigMap", "dashboard")
    assert json.loads(shipped["data"]["vmbackup-operator.json"]) == DASHBOARD
    panels = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(panels) == len(set(panels))
