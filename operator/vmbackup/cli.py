"""The command line. Roles are imported when they are called, so that `--help` answers at once."""

import argparse
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vmbackup import __version__
from vmbackup.cli_host import add_host, add_images, add_inspect, add_restore, add_run
from vmbackup.cli_sets import add_catalog, add_import, add_retention

if TYPE_CHECKING:
    from vmbackup.door.pages import Address

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - argparse has no other name for it

KUBELET_DIRECTORY = "/var/lib/kubelet"
METRICS_ADDRESS = "0.0.0.0:9090"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    arguments = _parser().parse_args(argv)
    code: int = arguments.call(arguments)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vmbackup-operator",
        description="Back up running libvirt virtual machines, from Kubernetes or from the shell.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_run(commands)
    add_restore(commands)
    _add_watch(commands)
    _add_controller(commands)
    _add_agent(commands)
    add_inspect(commands)
    add_catalog(commands)
    _add_cluster(add_import(commands))
    _add_cluster(add_retention(commands))
    _add_crd(commands)
    return parser


def _add_watch(commands: "Commands") -> None:
    watch = commands.add_parser("watch", help="show the progress of VMBackups until they are over")
    watch.add_argument("names", nargs="+", metavar="NAME", help="VMBackups of the namespace")
    watch.add_argument("-n", "--namespace", default="default")
    watch.add_argument("--timeout", type=float, default=3600, metavar="SECONDS", help="give up watching after so long")
    _add_cluster(watch)
    watch.set_defaults(call=_watch)


def _add_controller(commands: "Commands") -> None:
    controller = commands.add_parser("controller", help="decide where and when VMBackups run")
    _add_cluster(controller)
    _add_namespace(controller)
    controller.add_argument("--per-node", type=int, default=2, help="backups on a node at once (default 2)")
    controller.add_argument(
        "--missing-seconds", type=float, default=60, help="time for a VM or location not there yet to come (default 60)"
    )
    controller.add_argument(
        "--abandon-seconds",
        type=float,
        default=900,
        help="time that a deleted VMBackup waits for the silent agent of its node (default 900)",
    )
    controller.add_argument(
        "--removal-seconds",
        type=float,
        default=300,
        help="time that a deleted VMBackup waits for the removal of its set, once that is recorded (default 300)",
    )
    controller.add_argument("--probe-port", type=int, default=8081, help="port of /healthz (default 8081; 0: none)")
    _add_signs(controller)
    controller.set_defaults(call=_controller)


def _add_agent(commands: "Commands") -> None:
    agent = commands.add_parser("agent", help="do the backups of this node")
    _add_cluster(agent)
    _add_namespace(agent)
    add_host(agent)
    add_images(agent)
    agent.add_argument(
        "--node", default=os.environ.get("NODE_NAME", socket.gethostname()), help="this node's name (or NODE_NAME)"
    )
    agent.add_argument("--default-namespace", default="", help="namespace of the VMs that nobody claims (default none)")
    agent.add_argument("--probe-port", type=int, default=8082, help="port of /healthz (default 8082; 0: none)")
    _add_signs(agent)
    agent.add_argument(
        "--stall-seconds", type=int, default=300, help="time without progress that counts as a fault (default 300)"
    )
    agent.add_argument(
        "--grace-seconds", type=float, default=20, help="after SIGTERM, time to take VMs off overlays (default 20)"
    )
    agent.add_argument(
        "--kubelet",
        type=Path,
        default=Path(KUBELET_DIRECTORY),
        metavar="DIRECTORY",
        help=f"the kubelet's root directory, for VMs of KubeVirt (default {KUBELET_DIRECTORY})",
    )
    agent.set_defaults(call=_agent)


def _add_crd(commands: "Commands") -> None:
    crd = commands.add_parser("crd", help="write the CustomResourceDefinitions")
    crd.add_argument("--output", type=Path, help="directory to write them into (default: print them)")
    crd.set_defaults(call=_crd)


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kubeconfig", type=Path, help="default: KUBECONFIG, else ~/.kube/config, else the pod's service account"
    )


def _add_namespace(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--namespace",
        default=os.environ.get("POD_NAMESPACE", "vmbackup-system"),
        help="namespace of the operator's Leases (or POD_NAMESPACE; default vmbackup-system)",
    )


def _add_signs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--metrics-address",
        type=_address,
        default=METRICS_ADDRESS if "KUBERNETES_SERVICE_HOST" in os.environ else "",
        metavar="HOST:PORT",
        help=f"where /metrics is shown (default {METRICS_ADDRESS} in a pod, else nowhere; empty: nowhere)",
    )
    parser.add_argument(
        "--log-format",
        choices=("auto", "text", "json"),
        default="auto",
        help="text for people, json for programs; auto: text on a terminal, else json (default auto)",
    )


def _address(text: str) -> "Address | None":
    from vmbackup.door.pages import listening_address  # noqa: PLC0415

    try:
        return listening_address(text) if text else None
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _watch(arguments: argparse.Namespace) -> int:
    from rich.console import Console  # noqa: PLC0415

    from vmbackup.watching import watch  # noqa: PLC0415

    return watch(Console(), arguments.kubeconfig, arguments.namespace, arguments.names, arguments.timeout)


def _controller(arguments: argparse.Namespace) -> int:
    from vmbackup.controller import main  # noqa: PLC0415
    from vmbackup.core.turns import Limits  # noqa: PLC0415

    return main(
        kubeconfig=arguments.kubeconfig,
        namespace=arguments.namespace,
        limits=Limits(
            per_node=arguments.per_node,
            grace_seconds=arguments.missing_seconds,
            abandon_seconds=arguments.abandon_seconds,
            removal_seconds=arguments.removal_seconds,
        ),
        probe_port=arguments.probe_port,
        metrics_address=arguments.metrics_address,
        log_format=arguments.log_format,
    )


def _agent(arguments: argparse.Namespace) -> int:
    from vmbackup.agent import Settings, main  # noqa: PLC0415

    return main(
        Settings(
            kubeconfig=arguments.kubeconfig,
            namespace=arguments.namespace,
            node=arguments.node,
            connect=arguments.connect,
            state=arguments.state.absolute(),
            images=arguments.images.absolute(),
            default_namespace=arguments.default_namespace,
            allow_monitor=arguments.allow_monitor,
            probe_port=arguments.probe_port,
            stall_seconds=arguments.stall_seconds,
            grace_seconds=arguments.grace_seconds,
            kubelet=arguments.kubelet.absolute(),
            metrics_address=arguments.metrics_address,
            log_format=arguments.log_format,
        )
    )


def _crd(arguments: argparse.Namespace) -> int:
    from vmbackup.api import crd  # noqa: PLC0415

    for name, text in crd.files().items():
        if arguments.output is None:
            sys.stdout.write(text)
        else:
            arguments.output.mkdir(parents=True, exist_ok=True)
            (arguments.output / name).write_text(text)
    return 0
