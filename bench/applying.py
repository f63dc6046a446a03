"""Our whole way: `kubectl apply`, the controller, the agent, libvirt's job, the published set."""

import contextlib
import json
import ssl
import threading
import time
import urllib.request
from itertools import count

import libvirt
from sides import write_request
from stage import DOMAIN, NAMESPACE, SIDE_SECONDS, Stage, kubectl, run

from testbed.controlplane import ControlPlane

POLL_SECONDS = 0.003


class Apply:
    """One VMBackup from the start of `kubectl apply` to the moment at which a watch shows its success.

    `to_start`: seconds until libvirt shows the job. `kubectl`: seconds of `kubectl apply` itself.
    """

    def __init__(self, stage: Stage, cluster: ControlPlane) -> None:
        self._stage, self._cluster = stage, cluster
        self._numbers = count()
        self.to_start: list[float] = []
        self.kubectl: list[float] = []

    def __call__(self) -> None:
        stage = self._stage
        name = f"bench-{next(self._numbers)}"
        request = write_request(stage.state / "request.yaml", name, "Push")
        begun = time.perf_counter()
        job = JobWatch(stage.uri, begun)
        command = kubectl(self._cluster, "apply", "-f", str(request))
        run(command)
        self.kubectl.append(time.perf_counter() - begun)
        _wait_for_success(self._cluster, name)
        self.to_start.append(job.seconds())


class JobWatch:
    """Notes when libvirt shows a job on the VM. No event tells the start of one, so it looks again and again."""

    def __init__(self, uri: str, begun: float) -> None:
        self._connection = libvirt.open(uri)
        self._begun = begun
        self._seconds: float | None = None
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def seconds(self) -> float:
        """Return the time from `begun` to the job. Raises RuntimeError when none was seen."""
        self._thread.join(timeout=1)
        self._connection.close()
        if self._seconds is None:
            raise RuntimeError("no job of libvirt's was seen")
        return self._seconds

    def _look(self) -> None:
        domain = self._connection.lookupByName(DOMAIN)
        while time.perf_counter() - self._begun < SIDE_SECONDS:
            # While the job is being made there are moments in which libvirt has no figures of it and raises.
            with contextlib.suppress(libvirt.libvirtError):
                if domain.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE:
                    self._seconds = time.perf_counter() - self._begun
                    return
            time.sleep(POLL_SECONDS)


def _wait_for_success(cluster: ControlPlane, name: str) -> None:
    """Return when a watch shows the success. Raises RuntimeError when it ends otherwise."""
    path = f"/apis/vmbackup.dev/v1alpha1/namespaces/{NAMESPACE}/vmbackups"
    query = f"watch=true&timeoutSeconds={SIDE_SECONDS}&fieldSelector=metadata.name={name}"
    handler = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=cluster.certificate))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), handler)
    opener.addheaders = [("Authorization", f"Bearer {cluster.admin_token}")]
    with opener.open(f"{cluster.url}{path}?{query}", timeout=SIDE_SECONDS) as events:
        for line in events:
            status = json.loads(line)["object"].get("status", {})
            if status.get("phase") == "Done":
                if status["outcome"] != "Succeeded":
                    raise RuntimeError(f"{name} ended as {status['outcome']}: {status['conditions']}")
                return
    raise RuntimeError(f"{name} is not over after {SIDE_SECONDS} s")
