"""A kubelet's directory for the session, a launcher pod for every test."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fault.mounts import own_mounts
from integration.launcher.pod import Kubelet, LauncherPod
from integration.launcher.scene import Scene
from integration.libvirt.engine import REST_SECONDS
from testbed.hypervisor import OWN_RELEASE
from vmbackup.core import ending


@pytest.fixture(scope="session")
def directory() -> Iterator[Path]:
    own_mounts()  # whatever becomes of this process, its mounts end with it
    path = Path(tempfile.mkdtemp(prefix="vbl-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def kubelet(directory: Path) -> Iterator[Kubelet]:
    kubelet = Kubelet(directory / "kubelet")
    yield kubelet
    kubelet.close()


@pytest.fixture(autouse=True)
def _short_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "ATTEMPT_REST_SECONDS", REST_SECONDS)


@pytest.fixture
def new_pod(kubelet: Kubelet, directory: Path) -> Iterator[Callable[..., LauncherPod]]:
    """Start a pod: `new_pod(release, session=..., propagation=...)`."""
    with ExitStack() as pods:

        def start(release: str = OWN_RELEASE, **options: object) -> LauncherPod:
            place = Path(tempfile.mkdtemp(prefix="pod-", dir=directory))
            pods.callback(shutil.rmtree, place)
            return pods.enter_context(LauncherPod(kubelet, place, release, **options))  # type: ignore[arg-type]

        yield start


@pytest.fixture
def release() -> str:
    return OWN_RELEASE


@pytest.fixture
def session() -> bool:
    """Most tests are of KubeVirt's usual case: the daemon of uid 107."""
    return True


@pytest.fixture
def pod(new_pod: Callable[..., LauncherPod], release: str, session: bool) -> LauncherPod:
    return new_pod(release, session=session)


@pytest.fixture
def scene(pod: LauncherPod, directory: Path) -> Iterator[Scene]:
    scene = Scene(pod, Path(tempfile.mkdtemp(prefix="scene-", dir=directory)))
    yield scene
    scene.close()
