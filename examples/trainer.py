"""Trains a small recogniser on the bundled speech with transformers' own Trainer, as its CTC tutorial does.

    python examples/trainer.py OUTPUT

`run_ctc.py` trains better and faster (SortaGrad, augmentation, exact resume); this is for those who have a Trainer already.
"""

import sys
from pathlib import Path

from datasets import Audio, load_dataset
from transformers import AutoTokenizer, Trainer, TrainingArguments

from modeling_deepspeech2 import (
    DeepSpeech2Config,
    DeepSpeech2FeatureExtractor,
    DeepSpeech2ForCTC,
    DeepSpeech2Processor,
    read_audio,
)


def main(output: str, **changes) -> Trainer:
    home = Path(__file__).resolve().parent.parent
    speech = load_dataset(str(home / "demo/speech"), "english").cast_column("audio", Audio(decode=False))
    features = DeepSpeech2FeatureExtractor(normalization="utterance")
    processor = DeepSpeech2Processor(features, AutoTokenizer.from_pretrained(home / "tokenizer/english"))

    def collate(rows: list[dict]) -> dict:
        waveforms = [read_audio(row["audio"]["bytes"], 16_000) for row in rows]
        inputs = processor(waveforms, [row["text"] for row in rows], sampling_rate=16_000, return_tensors="pt")
        return dict(inputs)  # the blank in the padding of the labels is ignored by the loss

    model = DeepSpeech2ForCTC(DeepSpeech2Config(conv_channels=(8, 16), num_hidden_layers=2, hidden_size=128))
    settings = {"num_train_epochs": 2, "per_device_train_batch_size": 16, "learning_rate": 2e-3, "report_to": "none"}
    arguments = TrainingArguments(output, remove_unused_columns=False, **settings | changes)
    trainer = Trainer(model, arguments, collate, speech["train"], speech["validation"], processing_class=processor)
    trainer.train()
    trainer.save_model()
    print(trainer.evaluate())
    return trainer


if __name__ == "__main__":
    main(*sys.argv[1:2] or ["runs/trainer"])
