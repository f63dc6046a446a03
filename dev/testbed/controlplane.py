"""A real Kubernetes control plane without nodes: etcd and kube-apiserver."""

import base64
import contextlib
import json
import secrets
import socket
import ssl
import subprocess
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from testbed.errors import TestbedError
from testbed.network import without_proxy
from testbed.tools import tool

READY_SECONDS = 60
TOKEN_HOURS = 24 * 365  # a development cluster may stay up for long


class ControlPlane:
    """etcd and kube-apiserver on free ports of 127.0.0.1; both end with the thread that started them.

    There is no controller manager: nothing makes default service accounts, and a deleted namespace stays
    Terminating. A pod must name its service account.

    Attributes: `url`, `kubeconfig` (of the administrator), `admin_token`, `certificate` (Path of the CA).
    """

    def __init__(self, directory: Path) -> None:
        """`directory` keeps certificate, data and logs; it is made when missing."""
        self.directory = directory.resolve()
        self.kubeconfig = self.directory / "admin.kubeconfig"
        self.certificate = self.directory / "tls.crt"
        self.admin_token = secrets.token_urlsafe(32)
        self._port, self._etcd_port, self._peer_port = _free_ports(3)
        self.url = f"https://127.0.0.1:{self._port}"
        self._users = [f'{self.admin_token},admin,admin,"system:masters"']  # lines of the token file
        self._names = ["IP:127.0.0.1", "DNS:localhost", "DNS:kubernetes.default.svc"]  # in the certificate
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start both and wait until the API server is ready. Raises TestbedError when one fails."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._write_credentials()
        try:
            self.start_etcd()
            self.start_apiserver()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End both; files stay in `directory`."""
        self.stop_apiserver()
        self.stop_etcd()

    def start_etcd(self) -> None:
        """Start etcd on its data directory and wait until it is healthy."""
        url, peer = f"http://127.0.0.1:{self._etcd_port}", f"http://127.0.0.1:{self._peer_port}"
        self._spawn(
            "etcd",
            "--data-dir",
            str(self.directory / "etcd"),
            "--unsafe-no-fsync",
            "--logger=zap",
            "--log-level=warn",
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        )
        self._wait("etcd", f"{url}/health")

    def start_apiserver(self) -> None:
        """Start kube-apiserver on the same port as before and wait until it is ready."""
        key = str(self.directory / "tls.key")
        self._spawn(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            f"--secure-port={self._port}",
            f"--tls-cert-file={self.certificate}",
            f"--tls-private-key-file={key}",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--authorization-mode=Node,RBAC",
            "--allow-privileged",
            f"--token-auth-file={self.directory / 'tokens.csv'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--kubelet-preferred-address-types=InternalIP",
            *self._apiserver_flags(),
        )
        self._wait("kube-apiserver", f"{self.url}/readyz")

    def stop_apiserver(self) -> None:
        """SIGKILL kube-apiserver: connections break at once, as on a node that dies."""
        self._kill("kube-apiserver")

    def stop_etcd(self) -> None:
        """SIGKILL etcd; its data stay."""
        self._kill("etcd")

    def kubectl(self, *arguments: str, input: str | None = None) -> str:  # noqa: A002 - subprocess calls it so
        """Run kubectl as the administrator and return its stdout. Raises TestbedError with its stderr."""
        # kubectl remembers for minutes what a server on this port knew, and ports come back.
        cache = f"--cache-dir={self.directory / 'kubectl-cache'}"
        command = [str(tool("kubectl")), f"--kubeconfig={self.kubeconfig}", cache, *arguments]
        environment = without_proxy(self.url.partition("://")[2].partition(":")[0])
        result = subprocess.run(command, input=input, capture_output=True, text=True, check=False, env=environment)
        if result.returncode:
            raise TestbedError(f"kubectl {' '.join(arguments)} failed: {result.stderr.strip()}")
        return result.stdout

    def apply(self, what: Path | dict[str, Any]) -> None:
        """Apply a manifest: a file, a directory or an object. CRDs in it are served when this returns."""
        if isinstance(what, Path):
            applied = self.kubectl("apply", "--server-side", "-f", str(what), "-o", "name")
        else:
            applied = self.kubectl("apply", "--server-side", "-f", "-", "-o", "name", input=json.dumps(what))
        crds = [name for name in applied.split() if name.startswith("customresourcedefinition.")]
        if crds:
            self.kubectl("wait", "--for=condition=Established", f"--timeout={READY_SECONDS}s", *crds)

    def service_account_kubeconfig(self, namespace: str, name: str, pod: str | None = None) -> Path:
        """Return a kubeconfig for a service account (made when missing), its token bound to `pod` when given.

        A token bound to a pod with `spec.nodeName` carries the node's name; see `placeholder_pod`.
        Raises TestbedError when the namespace or the pod does not exist.
        """
        self.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": namespace, "name": name}})
        bound = ["--bound-object-kind=Pod", f"--bound-object-name={pod}"] if pod else []
        token = self.kubectl("create", "token", name, "-n", namespace, f"--duration={TOKEN_HOURS}h", *bound).strip()
        path = self.directory / f"{namespace}.{name}{'.' + pod if pod else ''}.kubeconfig"
        self._write_kubeconfig(path, name, token)
        return path

    def placeholder_pod(self, namespace: str, name: str, service_account: str, node: str) -> None:
        """Make a pod that is bound to `node` and never runs: something to bind a token to."""
        container = {"name": "none", "image": "none"}
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"namespace": namespace, "name": name},
                "spec": {"nodeName": node, "serviceAccountName": service_account, "containers": [container]},
            }
        )

    def _apiserver_flags(self) -> list[str]:
        """Return the flags that a control plane with nodes has otherwise."""
        return [
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            # Without a controller manager no namespace gets a default service account.
            "--disable-admission-plugins=ServiceAccount",
        ]

    def _command(self, *arguments: str) -> list[str]:
        """Return the command line that starts a part."""
        # The kernel ends the child when the thread that started it is gone, whatever that died of.
        return ["setpriv", "--pdeathsig", "KILL", *arguments]

    def _spawn(self, name: str, *arguments: str) -> None:
        if name in self._processes:
            raise TestbedError(f"{name} runs already: stop it first.")
        command = self._command(str(tool(name)), *arguments)
        with (self.directory / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory, start_new_session=True
            )

    def _kill(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process:
            process.kill()
            process.wait()

    def _wait(self, name: str, url: str) -> None:
        """Poll `url` until it answers 200. Raises TestbedError when the process ends or time is up."""
        deadline = time.monotonic() + READY_SECONDS
        handler = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=self.certificate))
        # The machine's proxy settings are not meant for 127.0.0.1.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), handler)
        opener.addheaders = [("Authorization", f"Bearer {self.admin_token}")]
        while True:
            with contextlib.suppress(OSError), opener.open(url, timeout=5):
                return
            ended = self._processes[name].poll() is not None
            if ended or time.monotonic() > deadline:
                state = "ended" if ended else f"is not ready after {READY_SECONDS} s"
                raise TestbedError(f"{name} {state}: see {self.directory / name}.log.")
            time.sleep(0.05)

    def _write_credentials(self) -> None:
        """Write one self-signed certificate, whose key also signs service account tokens, and the admin's files."""
        usage = "keyUsage=critical,digitalSignature,keyEncipherment,keyCertSign"
        names = f"subjectAltName={','.join(self._names)}"
        command = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "3650",
            "-subj",
            "/CN=testbed",
            "-keyout",
            str(self.directory / "tls.key"),
            "-out",
            str(self.certificate),
            "-addext",
            names,
            "-addext",
            usage,
        ]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise TestbedError(f"openssl could not make a certificate: {result.stderr}")
        tokens = self.directory / "tokens.csv"
        tokens.write_text("".join(f"{line}\n" for line in self._users))
        tokens.chmod(0o600)
        self._write_kubeconfig(self.kubeconfig, "admin", self.admin_token)

    def _write_kubeconfig(self, path: Path, user: str, token: str) -> None:
        authority = base64.b64encode(self.certificate.read_bytes()).decode()
        cluster = {"server": self.url, "certificate-authority-data": authority}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "testbed",
            "clusters": [{"name": "testbed", "cluster": cluster}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": user}}],
        }
        path.write_text(json.dumps(content, indent=2))  # JSON is YAML
        path.chmod(0o600)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def _free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that were free a moment ago, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
