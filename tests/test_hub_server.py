"""The real clients against the local Hub: what one process pushes, another one with an empty cache reads back."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import HubServer


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


def run(hub: HubServer, hf_home: Path, code: str) -> str:
    """Run `code` in a fresh interpreter that takes the server for the Hub, and give back what it printed."""
    command, environment = [sys.executable, "-c", code], hub.environment(hf_home)
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_folder_upload_and_snapshot(hub: HubServer, tmp_path: Path) -> None:
    folder, copy = tmp_path / "folder", tmp_path / "copy"
    (folder / "extra").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\npipeline_tag: automatic-speech-recognition\n---\n# A model\n")
    (folder / "extra" / "config.json").write_text('{"hidden_size": 8}\n')
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 400)
    push = f"""
from huggingface_hub import HfApi
api = HfApi()
for _ in range(2):  # the second time nothing has changed, and nothing is committed
    api.create_repo("team/folder", exist_ok=True)
    api.upload_folder(repo_id="team/folder", folder_path={str(folder)!r})
"""
    pull = f"""
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError
snapshot_download("team/folder", local_dir={str(copy)!r})
assert HfApi().model_info("team/folder").pipeline_tag == "automatic-speech-recognition"
for repo_id, filename, error in (
    ("team/folder", "missing.json", EntryNotFoundError),
    ("team/missing", "config.json", RepositoryNotFoundError),
):
    try:
        hf_hub_download(repo_id, filename)
    except error:
        continue
    raise AssertionError(f"no {{error.__name__}}")
"""
    run(hub, tmp_path / "pusher", push)
    run(hub, tmp_path / "puller", pull)
    expected = {str(p.relative_to(folder).as_posix()): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert hub.files("team/folder") == expected
    assert {name: (copy / name).read_bytes() for name in expected} == expected
    stored = hub.repos["model", "team/folder"]
    assert {name for name, file in stored.files.items() if file.lfs} == {"model.safetensors"}
    assert stored.commits == 1


def test_transformers_model_round_trip(hub: HubServer, tmp_path: Path) -> None:
    push = """
import torch
from transformers import BertConfig, BertModel
torch.manual_seed(0)
config = BertConfig(
    vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
    max_position_embeddings=8,
)
model = BertModel(config)
model.push_to_hub("team/bert")
print(sum(p.double().abs().sum() for p in model.parameters()).item())
"""
    pull = """
from transformers import AutoConfig, AutoModel
assert AutoConfig.from_pretrained("team/bert").hidden_size == 8
model = AutoModel.from_pretrained("team/bert")
print(sum(p.double().abs().sum() for p in model.parameters()).item())
"""
    pushed = run(hub, tmp_path / "pusher", push)
    assert {"config.json", "model.safetensors"} <= set(hub.files("team/bert"))
    assert run(hub, tmp_path / "puller", pull) == pushed


def test_datasets_round_trip_streams(hub: HubServer, tmp_path: Path) -> None:
    push = """
from datasets import Dataset
rows = {"id": list(range(100)), "text": [f"row {i}" for i in range(100)]}
Dataset.from_dict(rows).push_to_hub("team/rows", split="train")
Dataset.from_dict(rows).select(range(3)).push_to_hub("team/rows", split="test")
"""
    pull = """
from datasets import IterableDataset, load_dataset
streamed = load_dataset("team/rows", split="train", streaming=True)
assert isinstance(streamed, IterableDataset)
assert list(streamed) == [{"id": i, "text": f"row {i}"} for i in range(100)]
assert len(load_dataset("team/rows", split="test")) == 3
"""
    run(hub, tmp_path / "pusher", push)
    assert any(name.endswith(".parquet") for name in hub.files("team/rows", repo_type="dataset"))
    run(hub, tmp_path / "puller", pull)
    parquet = "/datasets/team/rows/resolve/"
    assert any(r.startswith(f"GET {parquet}") and r.endswith(".parquet 206") for r in hub.requests)
