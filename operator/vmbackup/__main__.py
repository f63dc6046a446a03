"""`python -m vmbackup` is the same as the `vmbackup-operator` command."""

from vmbackup.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
