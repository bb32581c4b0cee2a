"""What we skip of transformers' common tests, and why; `conftest.py` applies it.

The library's tests skip themselves where they do not apply, and those are not listed here. For a model: attention
(eager, sdpa, flash, flex), embeddings to resize or to give instead of ids, generation, RoPE, experts,
sub-configurations, tensor parallel plans, weight conversions, modules kept in float32; what needs an accelerator,
deepspeed, `kernels`, a Mac or RUN_SLOW. For a tokenizer: the `tokenizers` backend, chat templates, golden values (ours
stand in `tests/test_tokenization_deepspeech2.py`). For a processor: images, videos, chat templates, librosa, torchcodec.
"""

SKIPS = {
    "test_model_get_set_embeddings": "the inputs are spectrograms: there is no embedding to get or to set",
    "test_tokenize_special_tokens": (
        "a special token written in a transcript is text like any other: no text puts a blank among the labels"
    ),
}
