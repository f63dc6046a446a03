"""A restic repository (format 1) that is written in milliseconds: snapshots of any time, without any data.

`restic backup` takes most of a second per snapshot; restic's answer to `forget` depends on nothing but snapshot files.
Format: https://restic.readthedocs.io/en/stable/100_references.html#repository-format
"""

import base64
import ctypes
import ctypes.util
import hashlib
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

PASSWORD = "test"
SCRYPT = {"N": 2, "r": 1, "p": 1}  # restic asks for a valid cost, not for a high one
CLAMP = 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
PRIME = (1 << 130) - 5
_crypto = ctypes.CDLL(ctypes.util.find_library("crypto"))
_crypto.EVP_CIPHER_CTX_new.restype = ctypes.c_void_p
_crypto.EVP_aes_256_ctr.restype = ctypes.c_void_p
_crypto.EVP_aes_128_ecb.restype = ctypes.c_void_p


def _aes(cipher: Any, key: bytes, iv: bytes | None, data: bytes) -> bytes:
    context = ctypes.c_void_p(_crypto.EVP_CIPHER_CTX_new())
    out, length = ctypes.create_string_buffer(len(data) + 16), ctypes.c_int()
    assert _crypto.EVP_EncryptInit_ex(context, ctypes.c_void_p(cipher()), None, key, iv) == 1
    assert _crypto.EVP_EncryptUpdate(context, out, ctypes.byref(length), data, len(data)) == 1
    _crypto.EVP_CIPHER_CTX_free(context)
    return out.raw[: length.value]


class Key:
    """Encrypts as restic does: AES-256-CTR, then Poly1305-AES over the ciphertext."""

    def __init__(self, secret: bytes) -> None:
        self.encrypt_key, self.k, r = secret[:32], secret[32:48], int.from_bytes(secret[48:64], "little")
        self.r = r & CLAMP

    def seal(self, plain: bytes) -> bytes:
        nonce = os.urandom(16)
        sealed = _aes(_crypto.EVP_aes_256_ctr, self.encrypt_key, nonce, plain)
        total = 0
        for start in range(0, len(sealed), 16):
            total = (total + int.from_bytes(sealed[start : start + 16] + b"\1", "little")) * self.r % PRIME
        mask = int.from_bytes(_aes(_crypto.EVP_aes_128_ecb, self.k, None, nonce), "little")
        return nonce + sealed + ((total + mask) % (1 << 128)).to_bytes(16, "little")

    def as_json(self) -> dict[str, Any]:
        mac = {"k": _base64(self.k), "r": _base64(self.r.to_bytes(16, "little"))}
        return {"mac": mac, "encrypt": _base64(self.encrypt_key)}


class Repository:
    """One repository. Every history is the snapshots of one host, so that one call judges all of them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = Key(os.urandom(64))
        for name in ("data", "index", "keys", "locks", "snapshots"):
            (directory / name).mkdir(parents=True)
        salt = os.urandom(64)
        cost = {"n": SCRYPT["N"], "r": SCRYPT["r"], "p": SCRYPT["p"]}
        user_key = Key(hashlib.scrypt(PASSWORD.encode(), salt=salt, dklen=64, **cost))
        master = user_key.seal(json.dumps(self._key.as_json()).encode())
        described = {"created": "2026-01-01T00:00:00Z", "username": "u", "hostname": "h", "kdf": "scrypt", **SCRYPT}
        self._store("keys", json.dumps({**described, "salt": _base64(salt), "data": _base64(master)}).encode())
        config = {"version": 1, "id": "0" * 64, "chunker_polynomial": "25b468838dcb75"}
        (directory / "config").write_bytes(self._key.seal(json.dumps(config).encode()))

    def add(self, host: str, at: datetime, tags: Sequence[str] = ()) -> None:
        body = {"time": at.isoformat(), "tree": "0" * 64, "paths": ["/vm"], "hostname": host, "username": "u"}
        if tags:
            body["tags"] = list(tags)
        self._store("snapshots", self._key.seal(json.dumps(body).encode()))

    def forget(self, *flags: str, zone: str) -> Mapping[str, Mapping[str, list[str]]]:
        """Return what `restic forget` would keep: by host, for the time of each kept snapshot, the rules that match."""
        command = ["restic", "forget", "--dry-run", "--json", "--no-lock", "--no-cache", "--group-by", "host"]
        ended = subprocess.run(
            [*command, *flags],
            env={"PATH": os.environ["PATH"], "TZ": zone, "RESTIC_PASSWORD": PASSWORD}
            | {"RESTIC_REPOSITORY": str(self._directory), "HOME": str(self._directory)},
            capture_output=True,
            check=False,
            text=True,
        )
        assert ended.returncode == 0, ended.stderr
        return {group["host"]: _kept(group) for group in json.loads(ended.stdout)}

    def _store(self, kind: str, content: bytes) -> None:
        (self._directory / kind / hashlib.sha256(content).hexdigest()).write_bytes(content)


def _kept(group: Mapping[str, Any]) -> dict[str, list[str]]:
    reasons = {reason["snapshot"]["time"]: reason["matches"] for reason in group["reasons"] or ()}
    return {snapshot["time"]: sorted(reasons[snapshot["time"]]) for snapshot in group["keep"] or ()}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
