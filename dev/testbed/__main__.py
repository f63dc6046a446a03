"""`python -m testbed up|down|demo|env|status`: the development cluster by hand."""

import argparse
import sys

from testbed import cluster
from testbed.errors import TestbedError


def main() -> int:
    """Run one command and return the exit code: 0 done, 1 failed or, for status, not up."""
    parser = argparse.ArgumentParser(prog="testbed", description="The development cluster.")
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("up", help="start it and return when all is Ready")
    start.add_argument("--without-operator", action="store_true", help="leave controller and agent to you")
    commands.add_parser("down", help="end it and remove its files")
    commands.add_parser("demo", help="start it, back up both VMs and prove the sets")
    commands.add_parser("env", help="print shell lines for eval")
    commands.add_parser("status", help="say whether it is up")
    arguments = parser.parse_args()
    try:
        match arguments.command:
            case "up":
                cluster.up(with_operator=not arguments.without_operator)
            case "down":
                cluster.down()
            case "demo":
                return _demo()
            case "env":
                print(cluster.exports())
            case _:
                return _status()
    except TestbedError as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1
    return 0


def _demo() -> int:
    from testbed.demo import run_demo  # noqa: PLC0415 - late: `up` and `env` need no Kubernetes client

    return run_demo()


def _status() -> int:
    up = cluster.running()
    print(f"{'up' if up else 'not up'}: {cluster.state_directory()}")
    return 0 if up else 1


if __name__ == "__main__":
    sys.exit(main())
