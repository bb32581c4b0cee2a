"""transformers' Trainer, as its CTC tutorial and `run_speech_recognition_ctc.py` use it: train, evaluate, save, resume."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, load_dataset_builder
from datasets.features import Audio
from hub_server import HubServer
from stranger import BY_PACKAGE, BY_REMOTE_CODE
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForCTC,
    AutoProcessor,
    AutoTokenizer,
    EvalPrediction,
    Trainer,
    TrainingArguments,
    pipeline,
)

from modeling_deepspeech2.training.metrics import ErrorRates


REPOSITORY = Path(__file__).parents[2]


class DataCollator:
    """What the tutorial and the script call `DataCollatorCTCWithPadding`: features and labels padded by two calls."""

    def __init__(self, processor):
        self.processor = processor

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        features = [{"input_features": row["input_features"]} for row in rows]
        batch = self.processor.pad(features, padding="longest", pad_to_multiple_of=None, return_tensors="pt")
        labels = [{"input_ids": row["labels"]} for row in rows]
        labels = self.processor.pad(labels=labels, padding="longest", pad_to_multiple_of=None, return_tensors="pt")
        batch["labels"] = labels["input_ids"].masked_fill(labels.attention_mask.ne(1), -100)
        batch["attention_mask"] = batch["attention_mask"].to(torch.long)
        return batch


@pytest.fixture(scope="module")
def speech(clips, processor) -> Dataset:
    """Features and labels of the clips, as the tutorial's `prepare_dataset` makes them."""
    rows = []
    for clip in clips:
        features = processor(clip.waveform, sampling_rate=16_000).input_features[0]
        rows.append({"input_features": features, "labels": processor(text=clip.text).input_ids})
    return Dataset.from_list(rows)


def arguments(output: Path, **settings) -> TrainingArguments:
    defaults = {
        "per_device_train_batch_size": 4, "per_device_eval_batch_size": 3, "learning_rate": 1e-3, "max_steps": 4,
        "report_to": "none", "use_cpu": True, "seed": 3, "logging_steps": 1, "save_steps": 2, "max_grad_norm": 5.0,
    }  # fmt: skip
    return TrainingArguments(str(output), **defaults | settings)


@pytest.mark.parametrize("options", [[], ["--trust_remote_code"]], ids=["package", "remote_code"])
def test_the_tutorial(tiny_model_folder, clips, tmp_path, options):
    """Trains, evaluates, keeps the best, resumes, pushes: by the package, and by the code beside the model alone."""
    rows = [{"audio": {"array": clip.waveform, "sampling_rate": 16_000}, "transcription": clip.text} for clip in clips[:6]]
    Dataset.from_list(rows).save_to_disk(tmp_path / "speech")
    command = [
        sys.executable,
        *(BY_REMOTE_CODE if options else BY_PACKAGE),
        Path(__file__).with_name("ctc_tutorial.py"),
        tiny_model_folder,
        tmp_path / "speech",
    ]
    with HubServer() as hub:
        environment = hub.environment(tmp_path / "home")
        subprocess.run([*command, tmp_path / "tutorial", *options], check=True, env=environment, cwd=tmp_path, timeout=300)
        assert {"model.safetensors", "README.md", "modeling_deepspeech2.py"} <= set(hub.files("tester/tutorial"))


def test_the_example_script(tiny_model_folder, speech, clips, tmp_path):
    """Every step that `run_speech_recognition_ctc.py` takes, with its foreign settings; what it saves opens again."""
    config = AutoConfig.from_pretrained(tiny_model_folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    extractor = AutoFeatureExtractor.from_pretrained(tiny_model_folder)
    config.update(
        {
            "feat_proj_dropout": 0.0, "attention_dropout": 0.0, "hidden_dropout": 0.0, "final_dropout": 0.0,
            "mask_time_prob": 0.05, "mask_time_length": 10, "mask_feature_prob": 0.0, "mask_feature_length": 10,
            "gradient_checkpointing": False, "layerdrop": 0.0, "ctc_loss_reduction": "mean", "ctc_zero_infinity": False,
            "pad_token_id": tokenizer.pad_token_id, "vocab_size": len(tokenizer), "activation_dropout": 0.0,
            "add_adapter": False,
        }
    )  # fmt: skip
    model = AutoModelForCTC.from_pretrained(tiny_model_folder, config=config, attn_implementation="sdpa")
    model.freeze_feature_encoder()
    for part in (extractor, tokenizer, config):
        part.save_pretrained(tmp_path / "output")
    processor = AutoProcessor.from_pretrained(tmp_path / "output")
    rates = ErrorRates()

    def compute_metrics(predicted: EvalPrediction) -> dict[str, float]:
        labels = np.where(predicted.label_ids == -100, tokenizer.pad_token_id, predicted.label_ids)
        texts = tokenizer.batch_decode(predicted.predictions)  # padded with -100 where batches have other lengths
        references = tokenizer.batch_decode(labels, group_tokens=False)
        assert sorted(references) == sorted(clip.text for clip in clips)
        return rates.compute(predictions=texts, references=references)

    def trainer() -> Trainer:
        return Trainer(
            model=model,
            data_collator=DataCollator(processor),
            args=arguments(tmp_path / "output"),
            compute_metrics=compute_metrics,
            train_dataset=speech,
            eval_dataset=speech,
            processing_class=processor,
            preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1),
        )

    first = trainer()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    first.train()
    first.save_model()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved and not any(name.startswith("deepspeech2.convolutions") for name in moved)
    metrics = first.evaluate()
    assert np.isfinite(metrics["eval_loss"]) and 0 < metrics["eval_wer"] < 100

    trained = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer().train(resume_from_checkpoint=str(tmp_path / "output" / "checkpoint-2"))
    for name, tensor in model.state_dict().items():
        assert torch.allclose(tensor, trained[name], atol=1e-6), name
    recognizer = pipeline("automatic-speech-recognition", str(tmp_path / "output"))
    saved = recognizer.model.state_dict()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in trained.items())
    assert recognizer(clips[0].waveform)["text"]


@pytest.mark.parametrize("batch_norm", ["off", "sequence"])
def test_accumulation_of_two_batches_is_one_of_twice_the_size(make_tiny_model, processor, speech, tmp_path, batch_norm):
    """The same loss and gradient norm to 1e-5; with BatchNorm, whose statistics are those of a batch, nearly so."""
    found = []
    for name, size, accumulated in (("two", 4, 2), ("one", 8, 1)):
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulated, "max_steps": 1}
        settings |= {"save_strategy": "no", "max_grad_norm": 1e9}
        model = make_tiny_model(batch_norm=batch_norm)
        trainer = Trainer(model, arguments(tmp_path / name, **settings), DataCollator(processor), speech)
        trainer.train()
        found.append(next((row["loss"], row["grad_norm"]) for row in trainer.state.log_history if "loss" in row))
    assert found[0] == pytest.approx(found[1], rel=1e-5 if batch_norm == "off" else 0.2)


def test_the_example(tmp_path, capsys):
    """`examples/trainer.py`, two small steps of it: what it saves transcribes."""
    spec = importlib.util.spec_from_file_location("trainer_example", REPOSITORY / "examples" / "trainer.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    trainer = example.main(str(tmp_path), max_steps=2, per_device_train_batch_size=2, use_cpu=True)
    assert trainer.state.global_step == 2 and "eval_loss" in capsys.readouterr().out
    assert type(pipeline("automatic-speech-recognition", str(tmp_path))).__name__ == "DeepSpeech2Pipeline"


@pytest.mark.parametrize("configuration", ["english", "mandarin"])
def test_bundled_speech_is_audio_by_default(configuration, tmp_path):
    """`datasets` takes the column for audio that it decodes; our own loader reads the same files undecoded."""
    builder = load_dataset_builder(str(REPOSITORY / "demo/speech"), configuration, cache_dir=str(tmp_path))
    assert builder.info.features["audio"] == Audio(sampling_rate=16_000) and builder.info.features["audio"].decode
