"""Things that take minutes to make, kept between runs outside the source tree."""

import fcntl
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path


def cache_directory() -> Path:
    """Return the cache directory, which follows XDG_CACHE_HOME."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "vmbackup-operator"


def say(text: str) -> None:
    """Print a progress line to stderr, so that stdout stays free for `env`."""
    print(f"testbed: {text}", file=sys.stderr, flush=True)


def cached(name: str, build: Callable[[Path], None]) -> Path:
    """Return the cached file or directory `name`, made by `build(path)` when it is not there yet.

    `build` gets a path that does not exist, in the same file system. What it leaves there is renamed into place,
    so a half-made entry is never seen; a lock keeps two processes from making the same entry.
    Raises whatever `build` raises; the half-made entry is removed first.
    """
    final = cache_directory() / name
    if final.exists():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    with (final.parent / f".{final.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if final.exists():
            return final
        partial = final.parent / f".{final.name}.partial"
        remove(partial)
        try:
            build(partial)
            partial.rename(final)
        finally:
            remove(partial)
    return final


def remove(path: Path) -> None:
    """Remove a file or a tree when it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
