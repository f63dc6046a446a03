"""Finding the QEMU of a VM in a /proc made of files."""

from pathlib import Path

from vmbackup.hypervisor.instance import Instances

UUID = "5a6b7c8d-0000-4000-8000-000000000001"


def make_proc(directory: Path) -> Path:
    boot = directory / "sys/kernel/random"
    boot.mkdir(parents=True)
    (boot / "boot_id").write_text("boot-1\n")
    (directory / "meminfo").write_text("")
    return directory


def start(proc: Path, pid: int, words: list[str], *, started: int, name: str = "qemu", state: str = "S") -> None:
    (proc / str(pid)).mkdir(exist_ok=True)
    (proc / str(pid) / "cmdline").write_bytes(b"\0".join(word.encode() for word in words) + b"\0")
    numbers = " ".join(str(number) for number in range(4, 22))
    (proc / str(pid) / "stat").write_text(f"{pid} ({name}) {state} {numbers} {started} 23 24\n")


def end(proc: Path, pid: int) -> None:
    for file in (proc / str(pid)).iterdir():
        file.unlink()
    (proc / str(pid)).rmdir()


def test_qemu_is_found_by_its_uuid_argument(tmp_path: Path) -> None:
    proc = make_proc(tmp_path)
    start(proc, 10, ["grep", UUID], started=1)
    start(proc, 11, ["qemu-system-x86_64", "-uuid", "another"], started=2)
    start(proc, 12, ["/usr/bin/qemu-system-x86_64", "-name", "a b", "-uuid", UUID], started=333, name="a) R (b")
    assert Instances(proc).instance(UUID, 1) == "boot-1.12.333"


def test_guest_that_was_started_anew_is_another_instance(tmp_path: Path) -> None:
    proc, instances = make_proc(tmp_path), Instances(tmp_path)
    start(proc, 12, ["qemu", "-uuid", UUID], started=333)
    first = instances.instance(UUID, 1)
    end(proc, 12)
    assert instances.instance(UUID, 1) == ""
    start(proc, 12, ["qemu", "-uuid", UUID], started=444)  # the pid is used again
    second = instances.instance(UUID, 2)
    assert second == "boot-1.12.444"
    assert second != first


def test_daemon_that_counts_anew_does_not_change_the_instance(tmp_path: Path) -> None:
    proc, instances = make_proc(tmp_path), Instances(tmp_path)
    start(proc, 12, ["qemu", "-uuid", UUID], started=333)
    assert instances.instance(UUID, 7) == instances.instance(UUID, 1)


def test_dead_qemu_that_nobody_waited_for_is_no_instance(tmp_path: Path) -> None:
    proc = make_proc(tmp_path)
    start(proc, 12, ["qemu", "-uuid", UUID], started=333, state="Z")
    assert Instances(proc).instance(UUID, 1) == ""


def test_known_qemu_is_not_searched_for_again(tmp_path: Path) -> None:
    proc, instances = make_proc(tmp_path), Instances(tmp_path)
    start(proc, 12, ["qemu", "-uuid", UUID], started=333)
    first = instances.instance(UUID, 1)
    (proc / "12" / "cmdline").unlink()  # a second search would not find it
    assert instances.instance(UUID, 1) == first
