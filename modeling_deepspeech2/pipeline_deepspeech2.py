"""The speech recognition pipeline: any audio in, text and times out.

It is transformers' own pipeline for CTC models, which reads files through ffmpeg and resamples through torchaudio; this one
reads and resamples through soundfile and soxr, which install everywhere.
"""

import os

import numpy as np
from transformers import AutomaticSpeechRecognitionPipeline

from .audio import AudioError, read_audio, to_mono


class DeepSpeech2Pipeline(AutomaticSpeechRecognitionPipeline):
    """`pipeline("automatic-speech-recognition", model=…)` for Deep Speech 2.

    Takes a path, a URL, the bytes of a file, an array at the model's rate, `{"array" or "raw": …, "sampling_rate": …}` or
    `{"bytes": …, "path": …}` (audio of `datasets`, decoded or not), mono or not, and the arguments of
    [`AutomaticSpeechRecognitionPipeline`]: `return_timestamps="word"` or `"char"` in seconds, `batch_size`, and
    `chunk_length_s` with `stride_length_s` for long recordings.
    """

    def preprocess(self, inputs, chunk_length_s=0, stride_length_s=None):
        yield from super().preprocess(self._waveform(inputs), chunk_length_s, stride_length_s)

    def postprocess(self, *args, **kwargs) -> dict:
        result = super().postprocess(*args, **kwargs)
        for chunk in result.get("chunks", []):  # plain numbers, which print and serialise
            chunk["timestamp"] = tuple(float(seconds) for seconds in chunk["timestamp"])
        return result

    def _waveform(self, inputs) -> np.ndarray | dict:
        """Whatever audio may come as -> samples at the model's rate, in a dict where something else comes with them."""
        rate = self.feature_extractor.sampling_rate
        if isinstance(inputs, str) and inputs.startswith(("http://", "https://")):
            from huggingface_hub.utils import httpx

            inputs = httpx.get(inputs, follow_redirects=True).raise_for_status().content
        if isinstance(inputs, (bytearray, memoryview)):
            inputs = bytes(inputs)
        if isinstance(inputs, (str, os.PathLike, bytes)):
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
