"""The options for metrics and logs, and that `--help` answers without loading what it does not need."""

import subprocess
import sys

import pytest

from vmbackup import cli

ROLES = pytest.mark.parametrize("role", ["controller", "agent"])


@ROLES
def test_metrics_are_shown_in_a_pod_and_nowhere_else(role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert cli._parser().parse_args([role]).metrics_address is None
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    assert cli._parser().parse_args([role]).metrics_address == ("0.0.0.0", 9090)  # noqa: S104 - a pod has no other
    assert cli._parser().parse_args([role, "--metrics-address="]).metrics_address is None


@ROLES
def test_address_that_is_none_is_refused_in_words(role: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli._parser().parse_args([role, "--metrics-address", "9090"])
    assert "'9090' is no address to listen on: write host:port" in capsys.readouterr().err


@ROLES
def test_log_format_is_one_of_three(role: str) -> None:
    assert cli._parser().parse_args([role]).log_format == "auto"
    with pytest.raises(SystemExit):
        cli._parser().parse_args([role, "--log-format", "xml"])


def test_help_loads_no_library() -> None:
    call = (
        "import sys; from vmbackup.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\nprint(*sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, check=True).stdout
    loaded = set(said.splitlines()[-1].split())
    assert "argparse" in loaded
    assert loaded & {"prometheus_client", "kopf", "kubernetes", "libvirt", "pydantic", "rich", "http.server"} == set()
