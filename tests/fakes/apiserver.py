"""An API server in memory, behind the methods of cluster.client.Client: versions, preconditions, merge patches."""

import copy
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

from vmbackup.cluster.errors import APIServerAway, Conflict, NotFound
from vmbackup.errors import VMBackupError

Body = dict[str, Any]


class FakeApiServer:
    """`objects` by path. `trouble`: called before every request with method and path; it may raise or change things.

    `calls` keeps method, path and body of every request that was let through.
    """

    def __init__(self) -> None:
        self.objects: dict[str, Body] = {}
        self.calls: list[tuple[str, str, Body | None]] = []
        self.trouble: Callable[[str, str], None] = lambda _method, _path: None
        self._versions = itertools.count(100)
        self._lock = threading.RLock()

    def put(self, path: str, body: Body) -> Body:
        """Store an object as somebody else's write: it gets a new version."""
        with self._lock:
            stored = copy.deepcopy(body)
            stored["metadata"].setdefault("uid", f"uid-{path}")
            stored["metadata"]["resourceVersion"] = str(next(self._versions))
            self.objects[path] = stored
            return copy.deepcopy(stored)

    def change(self, path: str, **parts: Body) -> None:
        """Merge into an object as somebody else's write."""
        with self._lock:
            self.put(path, _merged(self.objects[path], parts))

    def remove(self, path: str) -> None:
        with self._lock:
            del self.objects[path]

    def writes(self) -> list[str]:
        return [f"{method} {path}" for method, path, _ in self.calls if method != "GET"]

    def get(self, path: str) -> Body:
        with self._lock:
            self._begin("GET", path)
            return copy.deepcopy(self._find(path))

    def create(self, path: str, body: Body) -> Body:
        with self._lock:
            self._begin("POST", path, body)
            target = f"{path}/{body['metadata']['name']}"
            if target in self.objects:
                raise Conflict(f"{target} exists")
            return self.put(target, body)

    def patch(self, path: str, body: Body) -> Body:
        with self._lock:
            self._begin("PATCH", path, body)
            target = path.removesuffix("/status")
            old = self._find(target)
            for key in ("uid", "resourceVersion"):
                if key in body.get("metadata", {}) and body["metadata"][key] != old["metadata"][key]:
                    raise Conflict(f"{target}: {key} differs")
            scope = {"status"} if path.endswith("/status") else set(body) - {"status"}
            new = _merged(old, {key: value for key, value in body.items() if key in scope})
            if new == old:
                return copy.deepcopy(old)
            stored = self.put(target, new)
            if stored["metadata"].get("deletionTimestamp") and not stored["metadata"].get("finalizers"):
                del self.objects[target]
            return stored

    def delete(self, path: str, uid: str, version: str | None = None) -> Body:
        with self._lock:
            self._begin("DELETE", path)
            old = self._find(path)
            if old["metadata"]["uid"] != uid:
                raise Conflict(f"{path}: uid differs")
            if version not in (None, old["metadata"]["resourceVersion"]):
                raise Conflict(f"{path}: version differs")
            if old["metadata"].get("finalizers"):
                self.change(path, metadata={"deletionTimestamp": "2026-09-21T15:00:00Z"})
                return copy.deepcopy(self.objects[path])
            del self.objects[path]
            return {"kind": "Status"}

    def list(self, path: str, *, metadata_only: bool = False) -> Iterator[Body]:
        with self._lock:
            self._begin("GET", path)
            plural = path.rpartition("/")[2]
            prefix = path if "/namespaces/" in path else path.rpartition("/")[0]
            found = [
                body
                for at, body in sorted(self.objects.items())
                if at.startswith(prefix) and at.split("/")[-2] == plural
            ]
            keys = ("metadata",) if metadata_only else tuple({key for body in found for key in body})
            yield from ({key: copy.deepcopy(body[key]) for key in keys if key in body} for body in found)

    def _begin(self, method: str, path: str, body: Body | None = None) -> None:
        self.trouble(method, path)
        self.calls.append((method, path, copy.deepcopy(body)))

    def _find(self, path: str) -> Body:
        if path not in self.objects:
            raise NotFound(f"{path} is not there")
        return self.objects[path]


def failing(times: int, error: VMBackupError | None = None, method: str = "") -> Callable[[str, str], None]:
    """Return a trouble that fails the first requests of a method (all methods by default)."""
    left = itertools.count(times, -1)

    def trouble(called: str, path: str) -> None:
        if called.startswith(method) and next(left) > 0:
            raise error or APIServerAway(f"{called} {path}: connection refused")

    return trouble


def _merged(old: Any, changes: Any) -> Any:
    """Apply a JSON merge patch (RFC 7396)."""
    if not isinstance(changes, dict):
        return copy.deepcopy(changes)
    merged = copy.deepcopy(old) if isinstance(old, dict) else {}
    for key, value in changes.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), value)
    return merged
