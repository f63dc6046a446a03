"""One door to the API server: raw JSON in, raw JSON out, a time limit on every call.

The client may be used by many threads: urllib3's pool is safe for plain requests (only `stream()` is not, and it is not
used here: kubernetes-client/python#928). Models are never built: for custom resources they cost more than the call.
"""

import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vmbackup.cluster.errors import APIServerAway, answer_error

CONNECT_SECONDS = 5.0
READ_SECONDS = 15.0
POOL_SIZE = 8
CHUNK = 500
MERGE_PATCH = "application/merge-patch+json"
JSON = "application/json"
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

Body = dict[str, Any]


class Client:
    """Calls the API server. Close it when done.

    kubeconfig: path of a kubeconfig; None: the service account of the pod. Nothing is guessed from the environment.
    Raises: FileNotFoundError, kubernetes.config.ConfigException: there is no usable access to a cluster.
    """

    def __init__(self, kubeconfig: str | os.PathLike[str] | None, *, field_manager: str) -> None:
        from kubernetes.client.api_client import ApiClient  # noqa: PLC0415 - late: --help must answer at once

        self.configuration = load_configuration(kubeconfig)
        self.field_manager = field_manager
        self._api = ApiClient(self.configuration)
        self._api.user_agent = field_manager
        self._authentication = threading.Lock()

    def close(self) -> None:
        self._api.rest_client.close()

    def get(self, path: str) -> Body:
        """Raises: as `call`."""
        return self.call("GET", path)

    def create(self, path: str, body: Body) -> Body:
        """Raises: as `call`; Conflict: it exists."""
        return self.call("POST", path, body, {"fieldManager": self.field_manager})

    def patch(self, path: str, body: Body) -> Body:
        """Merge into the object. With `metadata.resourceVersion` or `uid` in the body it is a compare-and-swap.

        Raises: as `call`; Conflict: the object is not the one that was meant.
        """
        return self.call("PATCH", path, body, {"fieldManager": self.field_manager}, content_type=MERGE_PATCH)

    def delete(self, path: str, uid: str, version: str | None = None) -> Body:
        """Delete the object if it still has this UID, and this resource version if one is given. Raises: as `call`."""
        preconditions = {"uid": uid} | ({"resourceVersion": version} if version else {})
        return self.call("DELETE", path, {"preconditions": preconditions})

    def list(self, path: str, *, metadata_only: bool = False) -> Iterator[Body]:
        """Yield the objects of a collection, read in chunks. Raises: as `call`."""
        query = {"limit": str(CHUNK)}
        while True:
            page = self.call("GET", path, query=query, accept=METADATA_ONLY if metadata_only else JSON)
            yield from page.get("items") or ()
            token = page.get("metadata", {}).get("continue")
            if not token:
                return
            query["continue"] = token

    def call(
        self,
        method: str,
        path: str,
        body: Body | None = None,
        query: Mapping[str, str] | None = None,
        *,
        content_type: str = JSON,
        accept: str = JSON,
    ) -> Body:
        """Make one request and return the answer's JSON.

        Raises:
            APIServerAway: no answer in time, or the server asks to come back later (429, 5xx).
            NotFound, Conflict, Denied: as the server answered.
        """
        import urllib3  # noqa: PLC0415 - late, as above
        from kubernetes.client.exceptions import ApiException  # noqa: PLC0415

        try:
            with self._authentication:  # a token may be read again, or a program asked for one
                request = self._api.param_serialize(
                    method,
                    path,
                    query_params=list((query or {}).items()),
                    header_params={"Accept": accept, "Content-Type": content_type},
                    auth_settings=["BearerToken"],
                )
            url, headers = request[1], request[2]
            answer = self._api.rest_client.request(  # type: ignore[no-untyped-call]
                method, url, headers=headers, body=body, _request_timeout=(CONNECT_SECONDS, READ_SECONDS)
            )
            data = answer.read()
        except (urllib3.exceptions.HTTPError, ApiException, OSError) as error:
            raise APIServerAway(f"{method} {path}: no answer from the API server: {error}") from error
        if not 200 <= answer.status <= 299:
            raise answer_error(answer.status, f"{method} {path}", data, answer.headers.get("Retry-After"))
        try:
            parsed: Body = json.loads(data)
        except ValueError as error:  # a proxy's page, or half an answer
            raise APIServerAway(f"{method} {path}: the answer is no JSON: {error}") from error
        return parsed


def load_configuration(kubeconfig: str | os.PathLike[str] | None) -> Any:
    """Return the client's configuration. Raises: as `Client`."""
    from kubernetes.client.configuration import Configuration  # noqa: PLC0415 - late, as above
    from kubernetes.config import load_incluster_config, load_kube_config  # noqa: PLC0415
    from kubernetes.utils.keepalive import tcp_keepalive_socket_options  # noqa: PLC0415

    configuration = Configuration()
    configuration.proxy = None  # the environment's proxy is for other places; a kubeconfig may name its own
    if kubeconfig is None:
        load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    else:
        path = os.fspath(kubeconfig)
        if not os.path.isfile(path):
            raise FileNotFoundError(f"There is no kubeconfig {path}.")
        load_kube_config(config_file=path, client_configuration=configuration)  # type: ignore[no-untyped-call]
    configuration.retries = False  # we retry, with the time limits that the caller knows
    configuration.connection_pool_maxsize = POOL_SIZE
    configuration.socket_options = tcp_keepalive_socket_options()
    return configuration


def find_kubeconfig(given: str | os.PathLike[str] | None) -> Path | None:
    """Return the kubeconfig to use: the given one, KUBECONFIG, ~/.kube/config, else None: the pod's service account."""
    if given is not None:
        return Path(given)
    named = os.environ.get("KUBECONFIG")
    if named:
        return Path(named)
    usual = Path.home() / ".kube" / "config"
    return usual if usual.is_file() else None
