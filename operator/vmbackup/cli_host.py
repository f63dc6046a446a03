"""The commands that need a libvirt host and no cluster: back up, restore, inspect; and the options of a host."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - argparse has no other name for it

STATE_DIRECTORY = "/var/lib/vmbackup-operator"
IMAGES_DIRECTORY = "/var/lib/libvirt/images"
DEFAULT_URI = "qemu:///system"


def add_run(commands: "Commands") -> None:
    run = commands.add_parser("run", help="back up one VM of this host, without a cluster")
    run.add_argument("-f", "--file", type=Path, required=True, help="a file with one VMBackup")
    run.add_argument("--location", type=Path, required=True, help="directory that receives the set")
    run.add_argument("--min-free", default="5%", help="space to leave free in the location (default 5%%)")
    add_host(run)
    run.set_defaults(call=_run)


def add_restore(commands: "Commands") -> None:
    restore = commands.add_parser("restore", help="bring a set back on this host, without a cluster")
    restore.add_argument("-f", "--file", type=Path, required=True, help="a file with one VMRestore")
    restore.add_argument("--location", type=Path, required=True, help="directory that holds the sets")
    add_images(restore)
    restore.add_argument("--min-free", default="5%", help="space to leave free beside the images (default 5%%)")
    _add_daemon(restore)
    restore.set_defaults(call=_restore)


def add_inspect(commands: "Commands") -> None:
    inspect = commands.add_parser("inspect", help="show what is under way on this node, and what a human must look at")
    inspect.add_argument("--json", action="store_true", help="for programs")
    inspect.add_argument(
        "--location", type=Path, action="append", default=[], help="look for unfinished sets there, too (repeatable)"
    )
    add_host(inspect)
    inspect.set_defaults(call=_inspect)


def add_images(parser: argparse.ArgumentParser) -> None:
    """Add where restored images go."""
    parser.add_argument(
        "--images",
        type=Path,
        default=Path(IMAGES_DIRECTORY),
        help=f"directory for restored images (default {IMAGES_DIRECTORY})",
    )


def _add_daemon(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--connect",
        default=os.environ.get("LIBVIRT_DEFAULT_URI", DEFAULT_URI),
        metavar="URI",
        help=f"the libvirt daemon (or LIBVIRT_DEFAULT_URI; default {DEFAULT_URI})",
    )
    parser.add_argument(
        "--state", type=Path, default=Path(STATE_DIRECTORY), help=f"journal and locks (default {STATE_DIRECTORY})"
    )


def add_host(parser: argparse.ArgumentParser) -> None:
    """Add which daemon, where the journal is, and what may be done to domains."""
    _add_daemon(parser)
    parser.add_argument(
        "--allow-monitor",
        action="store_true",
        help="let speed limits go through the QEMU monitor where libvirt has no way (taints the domain)",
    )


def _run(arguments: argparse.Namespace) -> int:
    from rich.console import Console  # noqa: PLC0415 - late, as all roles

    from vmbackup.standalone import Settings, main  # noqa: PLC0415

    settings = Settings(
        request=arguments.file,
        location=arguments.location.absolute(),
        connect=arguments.connect,
        state=arguments.state.absolute(),
        min_free=arguments.min_free,
        allow_monitor=arguments.allow_monitor,
    )
    return main(settings, Console())


def _restore(arguments: argparse.Namespace) -> int:
    from rich.console import Console  # noqa: PLC0415

    from vmbackup.standalone_restore import Settings, main  # noqa: PLC0415

    settings = Settings(
        request=arguments.file,
        location=arguments.location.absolute(),
        images=arguments.images.absolute(),
        connect=arguments.connect,
        state=arguments.state.absolute(),
        min_free=arguments.min_free,
    )
    return main(settings, Console())


def _inspect(arguments: argparse.Namespace) -> int:
    from rich.console import Console  # noqa: PLC0415

    from vmbackup.inspection import main  # noqa: PLC0415

    locations = [location.absolute() for location in arguments.location]
    return main(
        Console(),
        connect=arguments.connect,
        state=arguments.state.absolute(),
        as_json=arguments.json,
        locations=locations,
    )
