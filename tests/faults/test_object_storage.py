"""Training and sampling on az:// with the real client, against Azurite, Microsoft's emulator, over the loopback.

blobfile has no setting for another address, so its connections are led to the emulator here, and nowhere else.
"""

import base64
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import blobfile
import pytest
import torch
import urllib3
from blobfile import _azure as azure
from blobfile import _common as common
from launching import NETWORK

from command import UserError
from config import Settings
from guided_diffusion.runs import storage
from guided_diffusion.runs.world import World
from guided_diffusion.sampling.job import run_sampling
from guided_diffusion.training.loop import train

ACCOUNT, CONTAINER = "echo", "runs"


def find_azurite(folder: Path) -> str:
    """The emulator's command: on PATH, or installed for this test by npm. Skips the test where neither is possible."""
    found = shutil.which("azurite-blob")
    if found:
        return found
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("neither azurite-blob nor npm, which installs it, is here: object storage is not tried")
    done = subprocess.run([npm, "install", "--no-audit", "--no-fund", "--prefix", folder, "azurite@3"], timeout=280)
    if done.returncode:
        pytest.skip("npm could not install azurite: object storage is not tried")
    return str(folder / "node_modules" / ".bin" / "azurite-blob")


class LedToEmulator(urllib3.PoolManager):
    """Connections to <account>.blob.core.windows.net go to a local port."""

    def __init__(self, port: int):
        super().__init__()
        self.port = port

    def request(self, method, url, *arguments, **options):
        parts = urlsplit(url)
        account = parts.hostname.removesuffix(".blob.core.windows.net")
        options["headers"] = dict(options.get("headers") or {}) | {"Host": f"{account}.blob.localhost:{self.port}"}
        local = parts._replace(scheme="http", netloc=f"127.0.0.1:{self.port}").geturl()
        return super().request(method, local, *arguments, **options)


@pytest.fixture(scope="module")
def container(tmp_path_factory) -> Iterator[str]:
    """az:// address of an empty container in a running emulator."""
    folder = tmp_path_factory.mktemp("azurite")
    command = find_azurite(folder)
    key = base64.b64encode(secrets.token_bytes(32)).decode()
    with pytest.MonkeyPatch.context() as patch, open(folder / "log.txt", "wb") as log:
        patch.setenv("AZURITE_ACCOUNTS", f"{ACCOUNT}:{key}")
        patch.setenv("AZURE_STORAGE_ACCOUNT", ACCOUNT)
        patch.setenv("AZURE_STORAGE_KEY", key)
        emulator, port = start_emulator([command, "--location", str(folder), "--skipApiVersionCheck"], log)
        try:
            pool = LedToEmulator(port)
            blobfile.configure(get_http_pool=lambda: pool, save_access_token_to_disk=False, retry_limit=3)
            create_container(key)
            yield f"az://{ACCOUNT}/{CONTAINER}"
        finally:
            blobfile.configure()
            emulator.terminate()
            emulator.wait()


def start_emulator(words: list[str], log: BinaryIO) -> tuple[subprocess.Popen, int]:
    """The emulator, once it answers, and its port. Twice: a port that was free may be taken when it is used."""
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        address = ["--blobHost", "127.0.0.1", "--blobPort", str(port)]
        emulator = subprocess.Popen([*words, *address], stdout=log, stderr=log)
        for _ in range(600):
            time.sleep(0.1)  # time to find that the port is taken, by one who would answer
            with socket.socket() as probe:
                if emulator.poll() is None and probe.connect_ex(("127.0.0.1", port)) == 0:
                    return emulator, port
            if emulator.poll() is not None:
                break
        emulator.kill()
    pytest.fail(f"the emulator does not answer: {Path(log.name).read_text()}")


def create_container(key: str) -> None:
    """With a request of the client's own kind, signed by it; the client itself never makes a container."""
    url = f"https://{ACCOUNT}.blob.core.windows.net/{CONTAINER}"
    asked = common.Request(method="PUT", url=url, params={"restype": "container"}, success_codes=(201,))
    signed = azure.create_api_request(asked, auth=(azure.SHARED_KEY, key))
    pool = blobfile._ops.default_context._conf.get_http_pool()
    answer = pool.request("PUT", f"{url}?restype=container", headers=dict(signed.headers))
    assert answer.status == 201, answer.data


def settings_of(datadir: str, savedir: str, **changes) -> Settings:
    common = NETWORK | {"datadir": datadir, "savedir": savedir, "num_workers": 0, "batch_size_train": 2}
    return Settings(
        **common | {"save_interval": 2, "log_interval": 1, "preview_steps": 1, "keep_checkpoints": 1} | changes
    )


def copy_up(datadir: Path, target: str) -> None:
    for path in datadir.rglob("*.png"):
        blobfile.copy(str(path), f"{target}/{path.relative_to(datadir)}")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_training_and_sampling_with_resume(container, datadir, tmp_path, survived):
    survived("object storage (az://)", "training and sampling, interrupted and gone on with, as on a disk", 2)
    torch.set_num_threads(1)
    copy_up(datadir, f"{container}/data")
    local, remote = str(tmp_path / "out"), f"{container}/out"
    train(settings_of(str(datadir), local, lr_anneal_steps=4), set())
    train(settings_of(f"{container}/data", remote, lr_anneal_steps=4), set())
    for name in ("model000004.pt", "ema_0.9999_000004.pt"):
        assert weights(f"{remote}/{name}").keys() == weights(f"{local}/{name}").keys()
        assert all(
            torch.equal(value, weights(f"{local}/{name}")[key]) for key, value in weights(f"{remote}/{name}").items()
        )
    names = storage.list_names(remote)
    assert {"progress.csv", "log.txt", "preview_000004.png", "train_test_config.json", "opt000004.pt"} <= set(names)
    assert "model000002.pt" not in names and any("tfevents" in name for name in names)
    # And on: the same command with more steps resumes.
    for place in (remote, local):
        data = str(datadir) if place == local else f"{container}/data"
        train(settings_of(data, place, lr_anneal_steps=6), set())
    one, other = weights(f"{local}/model000006.pt"), weights(f"{remote}/model000006.pt")
    assert all(torch.equal(one[key], other[key]) for key in one)
    with storage.open_for_reading(f"{remote}/progress.csv") as file:
        assert [line.split(b",")[0] for line in file.read().splitlines()] == [b"step", *b"1 2 3 4 5 6".split()]
    sample(container, remote)


def weights(path: str) -> dict[str, torch.Tensor]:
    with storage.open_for_reading(path) as file:
        return torch.load(file, weights_only=True)


def sample(container: str, remote: str) -> None:
    """15 images, of which some are there already; other settings are refused as on a disk."""
    results = f"{container}/results"
    job = Settings(
        datadir=f"{container}/data", resume_checkpoint=remote, results_dir=results, device="cpu", num_steps=2
    )
    job.num_samples = 6
    run_sampling(job, {"device"}, World())
    before = {
        name: blobfile.stat(f"{results}/samples/{name}").mtime for name in storage.list_names(f"{results}/samples")
    }
    assert len(before) == 6
    job.num_samples = 15
    run_sampling(job, {"device"}, World())
    after = {
        name: blobfile.stat(f"{results}/samples/{name}").mtime for name in storage.list_names(f"{results}/samples")
    }
    assert len(after) == 15 and before.items() <= after.items()
    with storage.open_for_reading(f"{results}/manifest.csv") as file:
        assert len(file.read().splitlines()) == 16
    job.seed = 1
    with pytest.raises(UserError, match="seed 0, not 1"):
        run_sampling(job, {"device"}, World())
