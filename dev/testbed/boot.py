"""A guest that really boots: Debian's cloud kernel and a small initramfs with the guest agent."""

import hashlib
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from testbed.cache import cached, say
from testbed.errors import TestbedError

SOURCES = Path(__file__).resolve().parent / "guest"
MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "crc32c_generic", "ext4")


def boot_files(directory: Path) -> tuple[Path, Path]:
    """Copy kernel and initramfs into `directory` and return their paths there.

    They are copied because libvirt hands them over to the qemu user. Raises TestbedError when they cannot be made.
    """
    sources = sorted(SOURCES.iterdir())
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in [*sources, Path(__file__)])).hexdigest()
    made = cached(f"guest-{digest[:12]}", _build)
    return (Path(shutil.copy(made / "vmlinuz", directory)), Path(shutil.copy(made / "initramfs", directory)))


def _build(path: Path) -> None:
    say("making the test guest (kernel, initramfs) ...")
    path.mkdir()
    with tempfile.TemporaryDirectory() as scratch:
        packages, tree = Path(scratch) / "packages", Path(scratch) / "tree"
        kernel = _kernel_package()
        for package in (kernel, "qemu-guest-agent"):
            _unpack(package, packages)
        for name in ("bin", "modules", "proc", "sys", "dev"):
            (tree / name).mkdir(parents=True)
        _copy_modules(packages, tree)
        _copy_program(shutil.which("busybox") or "busybox", tree)
        _copy_program(str(packages / "usr/sbin/qemu-ga"), tree)
        _copy_program(shutil.which("mkfs.ext4") or "mkfs.ext4", tree)
        _run("gcc", "-O2", "-static", "-o", str(tree / "bin/sequence"), str(SOURCES / "sequence.c"))
        shutil.copy(SOURCES / "init", tree / "init")
        # Not packed: a guest without KVM takes longer to unpack than the host to read.
        command = f"cd {tree} && find . | busybox cpio -o -H newc >{path}/initramfs"
        _run("sh", "-c", command)
        shutil.copy(next((packages / "boot").glob("vmlinuz-*")), path / "vmlinuz")


def _kernel_package() -> str:
    """Return the package that linux-image-cloud-amd64 stands for now. Raises TestbedError when apt has none."""
    for update in (False, True):
        if update:  # images often come without apt's lists
            _run("apt-get", "update")
        command = ["apt-cache", "depends", "linux-image-cloud-amd64"]
        listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        if found := re.search(r"linux-image-\S+-cloud-amd64", listed):
            return found[0]
    raise TestbedError("apt knows no linux-image-cloud-amd64: the test guest needs Debian's archive in apt's sources.")


def _unpack(package: str, into: Path) -> None:
    """Download a Debian package and unpack it; nothing is installed."""
    with tempfile.TemporaryDirectory() as download:
        # apt drops its rights while it downloads, and then may not write to a directory of ours.
        _run("apt-get", "-o", "APT::Sandbox::User=root", "download", package, cwd=Path(download))
        _run("dpkg", "-x", str(next(Path(download).glob("*.deb"))), str(into))


def _copy_modules(packages: Path, tree: Path) -> None:
    """Copy MODULES and what they need, and write the order to load them in."""
    files = {path.stem.replace("-", "_"): path for path in (packages / "lib/modules").rglob("*.ko")}
    order: list[str] = []

    def add(name: str) -> None:
        if name in order or name not in files:  # not in files: built into the kernel
            return
        needs = re.search(rb"\0depends=([^\0]*)\0", files[name].read_bytes())
        for need in needs[1].decode().split(",") if needs else []:
            add(need.replace("-", "_"))
        order.append(name)

    for name in MODULES:
        add(name)
    for name in order:
        shutil.copy(files[name], tree / "modules" / f"{name}.ko")
    (tree / "modules/order").write_text("".join(f"{name}.ko\n" for name in order))


def _copy_program(program: str, tree: Path) -> None:
    """Copy a program and the libraries it is linked with."""
    if not Path(program).exists():
        raise TestbedError(f"{program} is missing: run dev/bootstrap.sh.")
    shutil.copy(program, tree / "bin")
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    if "not found" in listed:
        raise TestbedError(f"{program} needs libraries that are missing here: run dev/bootstrap.sh.\n{listed}")
    for library in re.findall(r"(/\S+) \(0x", listed):
        target = tree / library.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)


def _run(*command: str, cwd: Path | None = None) -> str:
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if result.returncode:
        raise TestbedError(f"{' '.join(command)} failed: {result.stderr.strip()}")
    return result.stdout
