"""The speech recognition pipeline: text and times from any audio.

transformers' own pipeline for CTC models reads files through ffmpeg and resamples through torchaudio. This one uses
soundfile and soxr, which install everywhere.
"""

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutomaticSpeechRecognitionPipeline
from transformers.pipelines.automatic_speech_recognition import rescale_stride

from .audio import AudioError, read_audio, to_mono
from .audio_files import is_source
from .conditioning import blank_logits, condition
from .decoding_deepspeech2 import CTCBeamSearchDecoder, check_alphabet, has_decoder
from .errors import UserError
from .hypotheses import Decoder, check_n_best
from .loading_checks import check_parts
from .recognition import Recognition
from .remote_code import travels_with_code


logger = logging.getLogger(__name__)

PUSH_ARGUMENTS = ("repo_id", "token", "private", "commit_message", "revision", "create_pr")


@travels_with_code
class DeepSpeech2Pipeline(AutomaticSpeechRecognitionPipeline):
    """`pipeline("automatic-speech-recognition", model=…)` for Deep Speech 2.

    Takes a path, a URL, the bytes of a file, an array at the model's rate, `{"array" or "raw": …, "sampling_rate": …}` or
    `{"bytes": …, "path": …}` (audio of `datasets`, decoded or not), mono or not, and the arguments of
    [`AutomaticSpeechRecognitionPipeline`]: `return_timestamps="word"` or `"char"` in seconds, `batch_size`, and
    `chunk_length_s` with `stride_length_s` for long recordings.

    Where the model's folder or repository holds a decoder (see [`CTCBeamSearchDecoder.save_pretrained`]), or one is given,
    it takes the place of the best path. A call then takes `hotwords` (word or phrase -> weight) and `n_best` as well, which
    adds the list `hypotheses` with their scores. The chunks of `return_timestamps` have a `confidence`, which is the
    probability that a word is right where `deepspeech2 tune` has calibrated it.

    Recordings are decoded utterance by utterance, as [`transcribe`] does it; their texts are put together.

    Args:
        decoder: "auto": the one saved with the model, if there is one; a [`CTCBeamSearchDecoder`], or the folder or
            repository that holds one; None: the best path.
    """

    def __init__(self, model, *args, decoder: Decoder | str | os.PathLike | None = "auto", **kwargs):
        # Before the parent looks at `hotwords` and `n_best`; the tokenizer is there only afterwards.
        source, hub = decoder, getattr(model, "hub_access", {})
        if isinstance(decoder, str) and decoder == "auto":
            source = model.name_or_path
            source = source if source and has_decoder(source, **hub) else None
        elif source != model.name_or_path:  # another repository: the same token and cache, but no commit of this one
            hub = {name: value for name, value in hub.items() if name not in ("revision", "subfolder")}
        self.decoder = source
        super().__init__(model, *args, **kwargs)
        if isinstance(source, (str, os.PathLike)):
            self.decoder = CTCBeamSearchDecoder.from_pretrained(source, self.tokenizer, **hub)
        check_alphabet(self.decoder, self.model.config.vocab_size, self.tokenizer)
        check_parts(self.model.config, self.feature_extractor, self.tokenizer)

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Writes model, tokenizer, feature extractor, decoder and code; with `push_to_hub` also as `repo_id` on the Hub."""
        arguments = {name: kwargs.pop(name) for name in PUSH_ARGUMENTS if name in kwargs}
        super().save_pretrained(save_directory, **kwargs)
        if self.decoder is not None:
            self.decoder.save_pretrained(save_directory)
        if push_to_hub:
            self.push_to_hub(arguments.pop("repo_id", Path(save_directory).name), **arguments)

    def _sanitize_parameters(
        self,
        hotwords: dict[str, float] | None = None,
        n_best: int | None = None,
        return_timestamps: str | bool | None = None,
        **kwargs,
    ):
        # The parent refuses False, and hands times to `_forward`, too, which does not need them.
        kwargs["return_timestamps"] = return_timestamps or None
        preprocess, forward, postprocess = super()._sanitize_parameters(**kwargs)
        forward.pop("return_timestamps", None)
        if return_timestamps is False:
            postprocess["return_timestamps"] = None
        ignored = [*forward, *(["decoder_kwargs"] if postprocess.pop("decoder_kwargs", None) else [])]
        if ignored:  # a program for models that generate may pass them; a misspelt name must not vanish
            logger.warning(f"Ignored: {', '.join(ignored)}; this pipeline has no such arguments.")
        asked = {name: value for name, value in (("hotwords", hotwords), ("n_best", n_best)) if value is not None}
        if asked and self.decoder is None:
            raise UserError(
                f"{' and '.join(asked)}: found without a decoder; the best path knows no such thing, so pass "
                f"decoder=CTCBeamSearchDecoder(tokenizer), or use a model that has one in its repository."
            )
        if n_best is not None:
            check_n_best(n_best)
        if hotwords is not None and not isinstance(self.decoder, (str, os.PathLike)):
            self.decoder.start(hotwords)  # validated before any audio is read
        return preprocess, forward, postprocess | asked

    def preprocess(self, inputs, chunk_length_s=0, stride_length_s=None):
        inputs = self._waveform(inputs)
        if isinstance(inputs, dict) and "stride" in inputs:  # a chunk, cut by the caller
            yield from super().preprocess(inputs, chunk_length_s, stride_length_s)
            return
        waveform, rate = inputs["raw"] if isinstance(inputs, dict) else inputs, self.feature_extractor.sampling_rate
        config, normalization = self.model.config, self.feature_extractor.normalization
        speech, before, _ = condition(waveform, rate, config.bidirectional or normalization == "utterance")
        silence = (round(before / config.inputs_to_logits_ratio), len(speech) > 0)
        speech = speech if len(speech) else waveform[: rate // 10]  # the model reads something even of silence
        inputs = inputs | {"raw": speech} if isinstance(inputs, dict) else speech
        for item in super().preprocess(inputs, chunk_length_s, stride_length_s):
            yield item | {"silence": silence}

    def _forward(self, model_inputs, **kwargs) -> dict:
        names = (self.model.main_input_name, "attention_mask", "stride", "is_last", "silence")
        features, mask, stride, is_last, silence = (model_inputs.pop(name, None) for name in names)
        found = {"is_last": is_last, "silence": silence, "logits": self.model(features, mask).logits}
        if stride is not None:
            strides = rescale_stride([stride] if isinstance(stride, tuple) else stride, 1 / self._align_to)
            found["stride"] = strides[0] if isinstance(stride, tuple) else strides
        return found | model_inputs

    def postprocess(self, model_outputs, hotwords=None, n_best=None, return_timestamps=None, **kwargs) -> dict:
        pieces, extra, silence = [], {}, (0, True)
        for output in model_outputs:
            logits, stride = output.pop("logits")[0].float(), output.pop("stride", None)
            output.pop("is_last", None)
            silence = output.pop("silence", None) or silence
            if stride is not None:
                frames, left, right = stride
                logits = logits[left : frames - right]
            pieces.append(logits)
            for name, value in output.items():
                extra.setdefault(name, []).append(value)
        frames, is_spoken = silence
        blanks = blank_logits(frames, self.model.config.vocab_size, self.model.config.pad_token_id)
        pieces = [blanks, *pieces] if is_spoken else [blanks]
        recognition = Recognition(self.tokenizer, self.model.config, self.decoder, hotwords=hotwords, n_best=n_best or 1)
        found = recognition.transcript(pieces)
        result: dict[str, Any] = {"text": found[0].text}
        if return_timestamps:
            spans = found[0].words if return_timestamps == "word" else found[0].characters
            result["chunks"] = [
                {"text": span.text, "timestamp": (span.start, span.end), "confidence": span.confidence} for span in spans
            ]
        if n_best is not None:
            scores = ("text", "acoustic_score", "lm_score", "score")
            result["hypotheses"] = [{name: getattr(one, name) for name in scores} for one in found]
        return extra | result  # a caller's own "text", a reference perhaps, must not pass for what was recognised

    def _waveform(self, inputs) -> np.ndarray | dict:
        """Whatever audio may come as -> samples at the model's rate, in a dict where something else comes with them."""
        rate = self.feature_extractor.sampling_rate
        if is_source(inputs):
            return read_audio(inputs, rate)
        if hasattr(inputs, "get_all_samples"):  # torchcodec's decoder, which `datasets` gives
            decoded = inputs.get_all_samples()
            inputs = {"array": decoded.data, "sampling_rate": decoded.sample_rate}
        if not isinstance(inputs, dict):
            return to_mono(inputs, rate, rate)

        extra = dict(inputs)
        raw, array, content, path = (extra.pop(name, None) for name in ("raw", "array", "bytes", "path"))
        raw = array if raw is None else raw
        stride, declared = extra.pop("stride", None), extra.pop("sampling_rate", None)
        if raw is not None:
            if declared is None:
                raise AudioError("An audio array in a dict needs its 'sampling_rate' in hertz beside it.")
            raw = to_mono(raw, declared, rate, name="the audio array" if path is None else os.fspath(path))
        elif content is not None or path is not None:
            raw, declared = read_audio(content if content is not None else path, rate, name=path), rate
        else:
            raise AudioError(
                "A dict with audio needs 'array' (or 'raw') and 'sampling_rate', or 'bytes' or 'path' of a file, but has "
                f"{sorted(inputs)}."
            )
        if stride is not None:
            extra["stride"] = tuple(round(samples * rate / declared) for samples in stride)
        return {"raw": raw, "sampling_rate": rate, **extra}
