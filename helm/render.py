"""Writes what is generated around the chart: copies of the CRDs, the chart's README, manifests/.

Everything comes from crds/, the chart's templates and the comments in its values.yaml; a test tells when a file lags.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "dev"))

from testbed.tools import tool  # noqa: E402 - dev/ is no package that is installed

CHART = ROOT / "helm" / "vmbackup-operator"
MANIFESTS = ROOT / "manifests"
NAMESPACE = "vmbackup-system"
HEAD = "# Rendered from helm/vmbackup-operator by helm/render.py: do not edit.\n"
# What says "installed by Helm" is not so here.
HELMS_OWN = re.compile(r"^ *(helm\.sh/chart|app\.kubernetes\.io/managed-by): .*\n|^# Source: .*\n", re.MULTILINE)
COMMON = ("--set", "crds.keep=false")
# Names that processes outside of pods, and the tests, know: one namespace for both.
PLAIN = (
    *("--set", "fullnameOverride=vmbackup"),
    *("--set", "agent.namespace.name=", "--set", "agent.serviceAccount.name=agent"),
    *("--set", "controller.serviceAccount.name=controller", "--set", "kubevirt.enabled=true"),
)
BASE = ("--set", "namespace.create=true", "--set", "agent.directories.locations={/srv/vmbackup}")
MONITORING = (
    *BASE,
    *("--set", "metrics.podMonitor.enabled=true", "--set", "metrics.rules.enabled=true"),
    *("--set", "metrics.dashboard.enabled=true"),
)
OPERATOR = (
    *("namespaces.yaml", "controller/rbac.yaml", "controller/deployment.yaml", "controller/pdb.yaml"),
    *("agent/rbac.yaml", "agent/daemonset.yaml", "networkpolicies.yaml", "users.yaml"),
)
BASES = {
    "crds": (("crds.yaml",), BASE),
    "operator": (OPERATOR, BASE),
    "operator-kubevirt": (OPERATOR, (*BASE, "--set", "kubevirt.enabled=true")),
    "policy": (("agent/policy.yaml",), BASE),
    "monitoring": (("monitoring/podmonitors.yaml", "monitoring/rules.yaml", "monitoring/dashboard.yaml"), MONITORING),
}


def crds() -> dict[Path, str]:
    """Return the text of the chart's CRDs, which the templates read."""
    return {CHART / "files/crds" / path.name: path.read_text() for path in sorted((ROOT / "crds").glob("*.yaml"))}


def files() -> dict[Path, str]:
    """Return the text of every other generated file."""
    made: dict[Path, str] = {}
    made[CHART / "README.md"] = readme()
    made[MANIFESTS / "rbac/controller.yaml"] = rendered("controller/rbac.yaml", *PLAIN)
    made[MANIFESTS / "rbac/agent.yaml"] = rendered("agent/rbac.yaml", *PLAIN)
    made[MANIFESTS / "policy/agent.yaml"] = rendered("agent/policy.yaml", *PLAIN)
    for base, (templates, values) in BASES.items():
        for template in templates:
            made[MANIFESTS / "base" / base / template.replace("/", "-")] = rendered(template, *values)
        made[MANIFESTS / "base" / base / "kustomization.yaml"] = kustomization(
            template.replace("/", "-") for template in templates
        )
    made[MANIFESTS / "argocd/argocd-cm.yaml"] = health_checks()
    return made


def rendered(template: str, *values: str) -> str:
    """Return one template's objects, without Helm's own labels. Raises: subprocess.CalledProcessError."""
    command = [str(tool("helm")), "template", "vmbackup-operator", str(CHART), "--namespace", NAMESPACE]
    result = subprocess.run(
        [*command, *COMMON, *values, "--show-only", f"templates/{template}"],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"HELM_CACHE_HOME": "/nonexistent", "HELM_CONFIG_HOME": "/nonexistent"},
    )
    text = HELMS_OWN.sub("", result.stdout)
    return HEAD + re.sub(r"\A---\n", "", re.sub(r"\n+(---\n)+", "\n---\n", text)).strip() + "\n"


def health_checks() -> str:
    """Return a patch for Argo CD's ConfigMap with the health check of every kind."""
    lines = [
        "# Health checks for Argo CD, made from resource_customizations/ by helm/render.py: do not edit.\n",
        "#   kubectl -n argocd patch configmap argocd-cm --patch-file manifests/argocd/argocd-cm.yaml\n",
        "data:\n",
    ]
    for path in sorted(MANIFESTS.glob("argocd/resource_customizations/*/*/health.lua")):
        lines.append(f"  resource.customizations.health.{path.parent.parent.name}_{path.parent.name}: |\n")
        lines += [f"    {line}".rstrip() + "\n" for line in path.read_text().splitlines()]
    return "".join(lines)


def kustomization(names: Iterable[str]) -> str:
    lines = [f"  - {name}\n" for name in names]
    return f"{HEAD}apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n{''.join(lines)}"


def readme() -> str:
    """Return README.head.md with the table of values put in."""
    rows = [f"| `{key}` | {text} | `{default}` |\n" for key, text, default in values_table()]
    table = f"| value | what it does | default |\n| --- | --- | --- |\n{''.join(rows)}"
    return (CHART / "README.head.md").read_text().replace("<!-- values -->\n", table)


def values_table() -> list[tuple[str, str, str]]:
    """Return key, explanation and default of every value that values.yaml explains by a comment `# -- …`.

    Raises: ValueError: a value has no explanation.
    """
    rows: list[tuple[str, str, str]] = []
    path: list[tuple[int, str]] = []
    words: list[str] = []
    below = -1  # indentation of a value that was explained: what it holds is its default
    for line in (CHART / "values.yaml").read_text().splitlines():
        text = line.strip()
        if text.startswith("#"):
            words = (
                [text.removeprefix("# -- ")]
                if text.startswith("# -- ")
                else [*words, text.removeprefix("# ")] * bool(words)
            )
            continue
        match = re.match(r"( *)([\w-]+):(?: +(.*))?$", line)
        if not match:
            words = []
            continue
        indent, key, default = len(match[1]), match[2], match[3] or ""
        if 0 <= below < indent:
            rows[-1] = (*rows[-1][:2], f"{rows[-1][2]} {text}".strip())
            continue
        below = -1
        path = [*((at, name) for at, name in path if at < indent), (indent, key)]
        name = ".".join(part for _, part in path)
        if words:
            rows.append((name, " ".join(words).replace("|", "\\|"), default))
            below = indent
        elif default:
            raise ValueError(f"values.yaml: {name} has no comment `# -- …` above it")
        words = []
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="name the files that lag, and change nothing")
    check = parser.parse_args().check
    stale = [path for make in (crds, files) for path in write(make(), only_look=check)]
    print("".join(f"{path.relative_to(ROOT)}\n" for path in stale), end="")
    return int(check and bool(stale))


def write(made: dict[Path, str], *, only_look: bool) -> list[Path]:
    """Write the files that lag; return which."""
    stale = [path for path, text in made.items() if not path.exists() or path.read_text() != text]
    for path in stale:
        if not only_look:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(made[path])
    return stale


if __name__ == "__main__":
    raise SystemExit(main())
