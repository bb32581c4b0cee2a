"""Writes a model as a folder for other programs: ONNX graphs, the alphabet in their formats, and a card.

transformers.js reads `config.json` (in which the model is called a Wav2Vec2, because that is a CTC model with the waveform
as input), `preprocessor_config.json`, `tokenizer.json` and `onnx/model*.onnx`. sherpa-onnx reads `tokens.txt` and
`onnx/model_unit_variance.onnx`. This package also reads the section `deepspeech2` of `config.json`, and the decoder.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import onnx

from ..decoding_deepspeech2 import CTCBeamSearchDecoder
from ..errors import UserError
from ..modeling_deepspeech2 import DeepSpeech2ForCTC
from ..processing_deepspeech2 import DeepSpeech2Processor
from .card import write_card
from .graph import WeightType
from .live import check_live, live_graph
from .offline import offline_graph
from .vocabulary import symbols_of, tokenizer_json, tokens_txt


# The names that transformers.js looks for when it is asked for dtype "fp32", "fp16" and "q8". In as many bits, integers with
# a scale for each row are several times as exact as float16.
FILES: dict[str, WeightType] = {"": "float32", "_fp16": "int16", "_quantized": "int8"}
RULES = ("language", "numerals", "label_unit", "word_boundaries")  # of the text, which other programs do not know
UNIT_VARIANCE = "model_unit_variance.onnx"
# Of speech, from peak to peak within [-1, 1], to the unit variance that some programs scale it to.
SPEECH_DEVIATION = 0.2


def export(
    model: DeepSpeech2ForCTC,
    processor: DeepSpeech2Processor,
    output: Path,
    live: bool = False,
    decoder: CTCBeamSearchDecoder | None = None,
    source: str = "",
    splits: dict[str, Any] | None = None,
    hub_model_id: str | None = None,
) -> None:
    """Writes the folder; it is there when it is complete, and not before.

    Args:
        output: a new folder, or an empty one.
        live: also the graph for streams.
        decoder: to put beside the graphs, for this package.
        source, hub_model_id: names of the model and of the exported one, for the card.
        splits: [`SpeechData`] by its name, on which each file is measured, for the card.

    Raises:
        UserError: `output` holds something, other programs cannot spell the alphabet, or the model cannot transcribe a
            stream, although `live` asks for that.
    """
    check_output(output)
    symbols = symbols_of(processor.tokenizer)
    if live:
        check_live(model, processor.feature_extractor)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    except OSError as error:
        raise UserError(f"OUTPUT: {output} cannot be made a folder ({error.strerror}).") from error
    try:
        unfinished.chmod(0o777 & ~_umask())
        states = _write_graphs(model.fold_batch_norm(), processor.feature_extractor, unfinished, live)
        _write_texts(model.config, processor, symbols, states, unfinished)
        if decoder is not None:
            decoder.save_pretrained(unfinished)
        rates = None
        if splits:
            from .measurement import measure_files  # which needs the packages of the training

            rates = measure_files(unfinished, processor, splits)
        ratio = model.config.inputs_to_logits_ratio
        write_card(unfinished, output.name, source, processor, ratio, hub_model_id, rates)
        os.replace(unfinished, output)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def check_output(output: Path) -> None:
    """Raises UserError for a place that holds something."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"OUTPUT: {output} is there already; name a new folder, so that nothing is overwritten.")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _write_graphs(model: DeepSpeech2ForCTC, extractor: Any, folder: Path, live: bool) -> dict[str, list[int]] | None:
    """The states of the live graph, if there is one."""
    (folder / "onnx").mkdir()
    states = None
    for suffix, weights in FILES.items():
        onnx.save(offline_graph(model, extractor, weights), folder / "onnx" / f"model{suffix}.onnx")
        if live:
            graph, states = live_graph(model, extractor, weights)
            onnx.save(graph, folder / "onnx" / f"live{suffix}.onnx")
    if model.config.pad_token_id == 0:  # sherpa-onnx takes 0 for the blank
        onnx.save(offline_graph(model, extractor, gain=SPEECH_DEVIATION), folder / "onnx" / UNIT_VARIANCE)
    return states


def _write_texts(
    config: Any, processor: DeepSpeech2Processor, symbols: list[str], states: dict[str, list[int]] | None, folder: Path
) -> None:
    tokenizer, extractor = processor.tokenizer, processor.feature_extractor
    blank, delimiter = tokenizer.pad_token, tokenizer.word_delimiter_token
    time_kernels = [time for _, time in config.conv_kernel_sizes]
    contents = {
        "config.json": {
            "model_type": "wav2vec2",
            "architectures": ["Wav2Vec2ForCTC"],
            "vocab_size": config.vocab_size,
            "pad_token_id": config.pad_token_id,
            "hidden_size": config.hidden_size,
            "num_hidden_layers": config.num_hidden_layers,
            # Their product is the number of samples for each frame of logits.
            "conv_stride": [config.hop_length, *(time for _, time in config.conv_strides)],
            "conv_kernel": [extractor.n_fft, *time_kernels],
            "conv_dim": [config.num_frequency_bins, *config.conv_channels],
            "num_feat_extract_layers": 1 + len(time_kernels),
            "deepspeech2": {
                "bidirectional": config.bidirectional,
                "sampling_rate": config.sampling_rate,
                "inputs_to_logits_ratio": config.inputs_to_logits_ratio,
                "word_confidence": list(config.word_confidence),
                "normalization": extractor.normalization,
                "live_states": states,
            },
        },
        "preprocessor_config.json": {
            "feature_extractor_type": "Wav2Vec2FeatureExtractor",
            "processor_class": "Wav2Vec2Processor",
            "feature_size": 1,
            "sampling_rate": config.sampling_rate,
            "padding_value": 0.0,
            "do_normalize": False,
            "return_attention_mask": True,
        },
        "tokenizer.json": tokenizer_json(symbols, blank, delimiter),
        "tokenizer_config.json": {
            "tokenizer_class": "Wav2Vec2CTCTokenizer",
            "processor_class": "Wav2Vec2Processor",
            "pad_token": blank,
            "unk_token": tokenizer.unk_token,
            "bos_token": None,
            "eos_token": None,
            "word_delimiter_token": delimiter,
            "replace_word_delimiter_char": " ",
            "do_lower_case": False,
            "clean_up_tokenization_spaces": False,
            **{name: getattr(tokenizer, name) for name in RULES if hasattr(tokenizer, name)},
        },
        "vocab.json": {symbol: number for number, symbol in enumerate(symbols)},
    }
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if config.pad_token_id == 0:
        (folder / "tokens.txt").write_text(tokens_txt(symbols, delimiter), encoding="utf-8")
