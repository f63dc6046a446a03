"""QEMU's tools as the tests use them."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def qemu_io(image: Path, *commands: str, format_: str = "qcow2") -> None:
    words = [word for command in commands for word in ("-c", command)]
    subprocess.run(["qemu-io", "-f", format_, *words, image], check=True, capture_output=True)


def qcow2(path: Path, size: str, *commands: str, backing: Path | None = None) -> Path:
    below = ["-b", str(backing), "-F", "qcow2"] if backing else []
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *below, str(path), size], check=True)
    if commands:
        qemu_io(path, *commands)
    return path


def same_content(one: Path, one_format: str, other: Path, other_format: str) -> bool:
    command = ["qemu-img", "compare", "-f", one_format, "-F", other_format, str(one), str(other)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


@contextmanager
def held_open(image: Path, format_: str = "qcow2") -> Iterator[None]:
    """Have the image open for writing in a QEMU tool, as a running VM has."""
    with subprocess.Popen(
        ["qemu-io", "-f", format_, image], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdin.write("length\n")
        holder.stdin.flush()
        holder.stdout.readline()  # it answers when the image is open
        try:
            yield
        finally:
            holder.stdin.close()
            holder.wait()
