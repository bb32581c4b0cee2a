"""Several machines: two hosts, each in a network namespace of its own, train together; one is lost, and the run goes on."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_run_ctc import REPOSITORY, dataset, rows, run, tiny  # noqa: F401

from modeling_deepspeech2.training.checkpoints import last_checkpoint


ADDRESSES = {"ds2-one": "10.77.0.1", "ds2-two": "10.77.0.2"}


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def hosts():
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    names = list(ADDRESSES)
    try:
        for name in names:
            ip("netns", "add", name)
    except subprocess.CalledProcessError:
        pytest.skip("network namespaces are not allowed here")
    try:
        ip("link", "add", "ds2-a", "netns", names[0], "type", "veth", "peer", "name", "ds2-b", "netns", names[1])
        for name, device in zip(names, ("ds2-a", "ds2-b")):
            ip("-n", name, "addr", "add", f"{ADDRESSES[name]}/24", "dev", device)
            ip("-n", name, "link", "set", device, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            for process in pids(name):
                subprocess.run(["kill", "-9", process], check=False)
            subprocess.run(["ip", "netns", "del", name], check=False)


def pids(host: str) -> list[str]:
    return subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True, check=False).stdout.split()


def start(host: str, rank: int, arguments: list[str]) -> subprocess.Popen:
    environment = os.environ | {
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "GLOO_SOCKET_IFNAME": ("ds2-a", "ds2-b")[rank],
    }
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", f"--node-rank={rank}"]
    launcher += [f"--master-addr={ADDRESSES['ds2-one']}", "--master-port=29511", "run_ctc.py"]
    return subprocess.Popen(
        ["ip", "netns", "exec", host, *launcher, *arguments],
        env=environment,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_two_hosts_train_one_is_lost_and_the_run_goes_on(hosts, dataset, tmp_path: Path):  # noqa: F811
    arguments = tiny(dataset, tmp_path, per_device_train_batch_size=2, num_train_epochs=20, save_steps=1)
    first, second = (start(host, rank, arguments) for rank, host in enumerate(hosts))
    deadline = time.monotonic() + 120
    while last_checkpoint(tmp_path) is None:
        assert time.monotonic() < deadline and first.poll() is None and second.poll() is None, "the hosts do not train"
        time.sleep(0.1)
    for process in pids(hosts[1]):
        subprocess.run(["kill", "-9", process], check=False)
    printed, _ = first.communicate(timeout=120)
    assert first.returncode != 0
    assert "Another process of this run is gone" in printed and "--resume" in printed
    second.wait()
    step = int(last_checkpoint(tmp_path).name[5:])
    printed = run(*arguments, "--resume", "--max_steps", str(step + 3))
    assert "1 × cpu" in printed and "test: WER" in printed
    assert int(last_checkpoint(tmp_path).name[5:]) == step + 3
