"""The CTC tutorial of transformers' documentation, step by step, where nothing but the model's name and data are ours.

    … ctc_tutorial.py MODEL SPEECH OUTPUT [--trust_remote_code]

SPEECH is a data set of `save_to_disk` with the columns `audio` and `transcription`. `stranger.py` says how it is run.
It fails at the first thing that is not as it should be.
"""

import sys
from pathlib import Path

import jiwer
import numpy as np
from datasets import load_from_disk
from transformers import AutoModelForCTC, AutoProcessor, Trainer, TrainingArguments, pipeline


MODEL, SPEECH, OUTPUT = sys.argv[1:4]
TRUST = {"trust_remote_code": True} if sys.argv[4:] else {}


class DataCollatorCTCWithPadding:
    """Features and labels are padded by two calls of the processor, as the tutorial has it."""

    def __init__(self, processor):
        self.processor = processor

    def __call__(self, rows: list[dict]) -> dict:
        features = [{"input_features": row["input_features"][0]} for row in rows]
        batch = self.processor.pad(features, padding="longest", return_tensors="pt")
        labels = [{"input_ids": row["labels"]} for row in rows]
        labels = self.processor.pad(labels=labels, padding="longest", return_tensors="pt")
        batch["labels"] = labels["input_ids"].masked_fill(labels.attention_mask.ne(1), -100)
        return batch


processor = AutoProcessor.from_pretrained(MODEL, **TRUST)


def prepare(row: dict) -> dict:
    audio = row["audio"]
    inputs = processor(np.array(audio["array"]), sampling_rate=audio["sampling_rate"], text=row["transcription"])
    inputs["input_length"] = len(inputs["input_features"][0])
    return inputs


def compute_metrics(predicted) -> dict[str, float]:
    ids = np.argmax(predicted.predictions, axis=-1)  # padded with -100 where batches have other lengths
    predicted.label_ids[predicted.label_ids == -100] = processor.tokenizer.pad_token_id
    texts = processor.batch_decode(ids)
    references = processor.batch_decode(predicted.label_ids, group_tokens=False)
    return {"wer": jiwer.wer(references, texts)}


def train(resume: str | None = None) -> Trainer:
    model = AutoModelForCTC.from_pretrained(
        MODEL, ctc_loss_reduction="mean", pad_token_id=processor.tokenizer.pad_token_id, **TRUST
    )
    settings = TrainingArguments(
        output_dir=OUTPUT, per_device_train_batch_size=2, gradient_accumulation_steps=2, learning_rate=1e-3,
        warmup_steps=1, max_steps=4, gradient_checkpointing=True, train_sampling_strategy="group_by_length",
        eval_strategy="steps", per_device_eval_batch_size=3, save_steps=2, eval_steps=2, logging_steps=1,
        load_best_model_at_end=True, metric_for_best_model="wer", greater_is_better=False, push_to_hub=True,
        hub_model_id=f"tester/{Path(OUTPUT).name}", hub_strategy="end", report_to="none", use_cpu=True,
    )  # fmt: skip
    trainer = Trainer(
        model=model,
        args=settings,
        train_dataset=encoded["train"],
        eval_dataset=encoded["test"],
        processing_class=processor,
        data_collator=DataCollatorCTCWithPadding(processor),
        compute_metrics=compute_metrics,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def saved_weights(folder: str) -> dict:
    return AutoModelForCTC.from_pretrained(folder, **TRUST).state_dict()


speech = load_from_disk(SPEECH).train_test_split(test_size=0.5, shuffle=False)
encoded = speech.map(prepare, remove_columns=speech["train"].column_names)
trainer = train()
assert trainer.state.best_metric > 0 and np.isfinite(trainer.evaluate()["eval_loss"])
trainer.push_to_hub()
weights, last = trainer.model.state_dict(), saved_weights(f"{OUTPUT}/checkpoint-4")
assert all((weights[name] == value).all() for name, value in saved_weights(OUTPUT).items())  # the best, which is saved
train(f"{OUTPUT}/checkpoint-2")  # goes on from there, and writes the last one again
assert all(np.allclose(last[name], value, atol=1e-6) for name, value in saved_weights(f"{OUTPUT}/checkpoint-4").items())
recognizer = pipeline("automatic-speech-recognition", f"tester/{Path(OUTPUT).name}", **TRUST)
assert type(recognizer).__name__ == "DeepSpeech2Pipeline" and recognizer.model.name_or_path.startswith("tester/")
assert recognizer(np.array(speech["test"][0]["audio"]["array"], np.float32))["text"]
