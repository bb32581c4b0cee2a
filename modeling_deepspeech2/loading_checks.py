"""Checks of a loaded model: weights or files that do not belong together are an error, instead of wrong transcripts."""

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from .errors import UserError


SHOWN = 3  # names in a message


def check_weights(model: nn.Module, name: Any, loading_info: dict[str, Any], shapes_may_differ: bool) -> None:
    """Checks the loading report of `from_pretrained` and the values of the weights.

    Args:
        name: the folder or repository, for the message.
        loading_info: see `from_pretrained(…, output_loading_info=True)`.
        shapes_may_differ: the caller has asked for new weights where the shapes differ.

    Raises:
        UserError: weights are missing, have another shape than the configuration says, or are not finite.
    """
    missing = loading_info["missing_keys"]
    if missing:
        raise UserError(
            f"The weights of {name} are not those of a {type(model).__name__} of this configuration: {_some(missing)} "
            f"missing; use the file that was saved together with the configuration."
        )
    differing = sorted(loading_info["mismatched_keys"], key=str)
    if differing and not shapes_may_differ:
        key, saved, expected = differing[0]
        raise UserError(
            f"The weights of {name} do not fit its configuration: {key} has the shape {tuple(saved)}, expected "
            f"{tuple(expected)}; ignore_mismatched_sizes=True starts such weights afresh."
        )
    weights = {key: value for key, value in model.state_dict().items() if not value.is_meta}
    broken = [key for key, value in weights.items() if not torch.isfinite(value).all()]
    if broken:
        raise UserError(
            f"The weights of {name} are not finite numbers: {_some(broken)} broken; the training diverged, or "
            f"the file is damaged."
        )
    negative = [key for key, value in weights.items() if key.endswith("running_var") and (value < 0).any()]
    if negative:
        raise UserError(f"The weights of {name} hold negative variances: {_some(negative)} broken; the file is damaged.")


def check_parts(config: Any, feature_extractor: Any, tokenizer: Any) -> None:
    """Checks that model, feature extractor and tokenizer belong together.

    Raises:
        UserError: another alphabet, number of bins, sampling rate or hop than the model's.
    """
    if len(tokenizer) != config.vocab_size:
        raise UserError(
            f"The tokenizer has an alphabet of {len(tokenizer)} symbols, but the model of {config.vocab_size}: use the "
            f"tokenizer that was saved with the model."
        )
    for name, own in (("feature_size", "num_frequency_bins"), ("sampling_rate",) * 2, ("hop_length",) * 2):
        found, expected = getattr(feature_extractor, name), getattr(config, own)
        if found != expected:
            raise UserError(
                f"The feature extractor has {name} {found}, but the model {own} {expected}: use the feature extractor that "
                f"was saved with the model."
            )


def _some(keys: Collection[str]) -> str:
    """`a, b, c and 5 more are`"""
    shown = sorted(keys)[:SHOWN]
    more = f" and {len(keys) - len(shown)} more" if len(keys) > len(shown) else ""
    return f"{', '.join(shown)}{more} {'is' if len(keys) == 1 else 'are'}"
