"""Directories that receive sets: a large one, and a small file system that can be filled and made read-only."""

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FILL_BYTES = 8 << 20
FILL_REST_SECONDS = 0.3  # a file system fills in its time: a job that has no chance to stop proves nothing
REMOUNT_REST_SECONDS, REMOUNT_TRIES = 0.2, 20


class Place:
    """One location. Who holds `still` may be sure that its path does not change meanwhile."""

    def __init__(self, name: str, path: Path, *, min_free: str = "5%", mounted_at: Path | None = None) -> None:
        self.name, self.path, self.min_free = name, path, min_free
        self.still = threading.Lock()
        self._mounted_at = mounted_at
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o755)

    @classmethod
    def small(cls, name: str, directory: Path, size_bytes: int) -> "Place":
        """Make an ext4 file system in a file. It is gone with our mount namespace."""
        file, at = directory / f"{name}.ext4", directory / f"{name}.mnt"
        at.mkdir(parents=True)
        with file.open("wb") as stream:
            stream.truncate(size_bytes)
        _run("mkfs.ext4", "-q", "-m", "0", str(file))
        _run("mount", "-o", "loop", str(file), str(at))
        at.chmod(0o755)
        return cls(name, at / "sets", min_free="20%", mounted_at=at)

    def manifests(self) -> list[Path]:
        """Return the manifest of every published set. Hold `still`."""
        return sorted(path for path in self.path.glob("*/*/*/manifest.json") if "/." not in str(path))

    def partials(self) -> list[Path]:
        """Return every unfinished set."""
        with self.still:
            return sorted(self.path.glob("*/*/.*"))

    def make_room(self, published: Path) -> None:
        """Remove a published set, as an administrator may."""
        shutil.rmtree(published)

    @contextmanager
    def renamed_away(self) -> Iterator[None]:
        away = self.path.with_name(f"{self.path.name}.away")
        with self.still:
            self.path.rename(away)
            try:
                yield
            finally:
                if self.path.exists():  # somebody made a new one: that is a violation, seen by what it holds
                    self.path.rename(self.path.with_name(f"{self.path.name}.made-while-away"))
                away.rename(self.path)

    @contextmanager
    def filled(self) -> Iterator[None]:
        """Fill the file system bit by bit, and free it."""
        assert self._mounted_at is not None
        filling, over = self._mounted_at / "filling", threading.Event()
        thread = threading.Thread(target=_fill, args=(filling, over), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            filling.unlink(missing_ok=True)

    @contextmanager
    def read_only(self, rest: Callable[[float], bool], say: Callable[[str], None]) -> Iterator[None]:
        """Make the file system read-only as soon as nobody writes to it, and writable again."""
        at = str(self._mounted_at)
        done = False
        for _ in range(REMOUNT_TRIES):
            done = subprocess.run(["mount", "-o", "remount,ro", at], capture_output=True, check=False).returncode == 0
            if done or rest(REMOUNT_REST_SECONDS):
                break
        say(f"{at} is read-only" if done else f"{at} was in use all the time")
        try:
            yield
        finally:
            if done:
                _run("mount", "-o", "remount,rw", at)


def _fill(path: Path, over: threading.Event) -> None:
    """Add a block every now and then, as long as there is room."""
    block = os.urandom(FILL_BYTES)
    with path.open("wb", buffering=0) as file:
        while not over.wait(FILL_REST_SECONDS):
            with suppress(OSError):
                file.write(block)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
