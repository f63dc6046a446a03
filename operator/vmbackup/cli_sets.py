"""The commands that are about sets: what is in a location, and what retention keeps of it."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - argparse has no other name for it


def add_catalog(commands: "Commands") -> None:
    catalog = commands.add_parser("catalog", help="list the sets of a location, without a cluster")
    catalog.add_argument("--location", type=Path, required=True, help="directory that holds the sets")
    catalog.add_argument("-n", "--namespace", default="", help="of this namespace only")
    catalog.add_argument("--vm", default="", help="of this VM only")
    catalog.add_argument("--json", action="store_true", help="for programs")
    catalog.set_defaults(call=_catalog)


def add_import(commands: "Commands") -> argparse.ArgumentParser:
    """Return the parser: it needs to know the cluster."""
    parser = commands.add_parser("import", help="make VMBackups for sets of a location that have none")
    parser.add_argument("--location", type=Path, required=True, help="directory that holds the sets")
    parser.add_argument("--name", required=True, help="name of the VMBackupLocation that it is")
    parser.add_argument("-n", "--namespace", required=True, help="whose sets")
    parser.add_argument("--schedule", default="", help="VMBackupSchedule whose retention shall see them (default none)")
    parser.set_defaults(call=_import)
    return parser


def add_retention(commands: "Commands") -> argparse.ArgumentParser:
    """Return the parser of `explain`: it needs to know the cluster."""
    retention = commands.add_parser("retention", help="what a schedule's retention keeps and removes")
    explain = retention.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "explain", help="say for every set whether it stays, and why"
    )
    which = explain.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "schedule", nargs="?", default="", metavar="SCHEDULE", help="a VMBackupSchedule of the namespace"
    )
    which.add_argument("-f", "--file", type=Path, help="a file with a VMBackupSchedule, tried before it is applied")
    explain.add_argument("-n", "--namespace", default="default")
    explain.add_argument("--json", action="store_true", help="for programs")
    explain.set_defaults(call=_explain)
    return explain


def _catalog(arguments: argparse.Namespace) -> int:
    from rich.console import Console  # noqa: PLC0415

    from vmbackup.catalog import Question, main  # noqa: PLC0415

    location = arguments.location.absolute()
    return main(Console(), Question(location, arguments.namespace, arguments.vm, arguments.json))


def _explain(arguments: argparse.Namespace) -> int:
    from rich.console import Console  # noqa: PLC0415

    from vmbackup.explaining import Question, main  # noqa: PLC0415

    question = Question(
        arguments.kubeconfig, arguments.namespace, arguments.schedule, arguments.file, as_json=arguments.json
    )
    return main(Console(), question)


def _import(arguments: argparse.Namespace) -> int:
    from rich.console import Console  # noqa: PLC0415

    from vmbackup.importing import Question, main  # noqa: PLC0415

    location = arguments.location.absolute()
    question = Question(arguments.kubeconfig, location, arguments.name, arguments.namespace, arguments.schedule)
    return main(Console(), question)
