"""transformers' own example script, unmodified, with this package imported and with `trust_remote_code` alone.

The script is in no package. Name that of a clone of transformers, and run this file:

    CTC_SCRIPT=…/examples/pytorch/speech-recognition/run_speech_recognition_ctc.py pytest tests/training/test_ctc_script.py
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import HubServer
from stranger import BY_PACKAGE, BY_REMOTE_CODE


REPOSITORY = Path(__file__).parents[2]
SCRIPT = os.environ.get("CTC_SCRIPT")
pytestmark = pytest.mark.skipif(SCRIPT is None, reason="CTC_SCRIPT does not name run_speech_recognition_ctc.py")

# `evaluate.load("wer")` needs the Hub's own metric: a file beside the run takes its place.
METRIC = """
import datasets
import evaluate
import jiwer

class Rate(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        features = datasets.Features({"predictions": text, "references": text})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        return jiwer.wer(list(references), list(predictions))
"""


@pytest.fixture(scope="module")
def hub(tiny_model_with_decoder, tmp_path_factory) -> Iterator[HubServer]:
    """With the model on it: given a folder, the script would take that for a checkpoint to resume."""
    with HubServer() as server:
        environment = server.environment(tmp_path_factory.mktemp("home"))
        command = [sys.executable, "-m", "modeling_deepspeech2.cli.main", "publish", "--hub_model_id", "tester/tiny"]
        subprocess.run([*command, "--model", str(tiny_model_with_decoder)], check=True, env=environment, timeout=300)
        yield server


@pytest.mark.parametrize("code", [BY_PACKAGE, BY_REMOTE_CODE], ids=["package", "remote_code"])
def test_the_script_trains_evaluates_and_saves(hub, tmp_path, code):
    """It asks for the processor that it has just saved without `trust_remote_code`; "y" is the answer to its question."""
    pytest.importorskip("torchcodec", reason="datasets decodes audio with torchcodec")
    (tmp_path / "rate").mkdir()
    (tmp_path / "rate" / "rate.py").write_text(METRIC)
    settings = {
        "model_name_or_path": "tester/tiny", "tokenizer_name_or_path": "tester/tiny", "output_dir": tmp_path / "output",
        "dataset_name": REPOSITORY / "demo/speech", "dataset_config_name": "english", "train_split_name": "validation",
        "max_train_samples": 6, "max_eval_samples": 3, "eval_metrics": tmp_path / "rate" / "rate.py", "max_steps": 2,
        "per_device_train_batch_size": 2, "per_device_eval_batch_size": 2, "gradient_accumulation_steps": 2,
        "report_to": "none", "save_steps": 1, "trust_remote_code": code is BY_REMOTE_CODE,
    }  # fmt: skip
    arguments = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, *code, SCRIPT, *arguments, "--do_train", "--do_eval", "--use_cpu"]
    environment = hub.environment(tmp_path / "home")
    done = subprocess.run(command, env=environment, input="y\n" * 20, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {"checkpoint-1", "checkpoint-2", "model.safetensors", "eval_results.json"} <= {
        file.name for file in (tmp_path / "output").iterdir()
    }
