"""Feature extractor and tokenizer in one: audio and text in, what the model's forward takes out."""

import numpy as np
from transformers import BatchFeature, ProcessorMixin


class DeepSpeech2Processor(ProcessorMixin):
    """Wraps a [`DeepSpeech2FeatureExtractor`] and a [`DeepSpeech2CTCTokenizer`]."""

    def __init__(self, feature_extractor, tokenizer):
        super().__init__(feature_extractor, tokenizer)

    def __call__(
        self, audio: np.ndarray | list | None = None, text: str | list[str] | None = None, **kwargs
    ) -> BatchFeature:
        """Features of `audio`, ids of `text`, or with both the features with the ids as `labels`.

        Args:
            audio: one waveform or several, see [`DeepSpeech2FeatureExtractor.__call__`].
            text: one transcript or several; labels are padded with the blank, which the loss leaves out.

        Raises:
            ValueError: neither audio nor text is given.
        """
        if audio is None and text is None:
            raise ValueError("The processor needs audio, text or both, but got neither.")
        settings = self._merge_kwargs(tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs)
        if audio is None:
            return self.tokenizer(text, **settings["text_kwargs"])
        inputs = self.feature_extractor(audio, **settings["audio_kwargs"])
        if text is not None:
            inputs["labels"] = self.tokenizer(text, **settings["text_kwargs"])["input_ids"]
        return inputs

    @property
    def model_input_names(self) -> list[str]:
        return self.feature_extractor.model_input_names + ["labels"]
