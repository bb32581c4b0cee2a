"""Makes a trained model wider without changing what it computes (`deepspeech2 widen`; Net2Net, arXiv 1511.05641).

New units are copies of old ones. Layers that read a copied unit divide its old weight among the copies. A little noise on
the copies' own weights lets them learn different things.
"""

import torch
from torch import Tensor

from ..configuration_deepspeech2 import DeepSpeech2Config
from ..errors import UserError
from ..modeling_deepspeech2 import DeepSpeech2ForCTC


class Copies:
    """Which old unit each unit of a wider layer is, and its share of what the old unit's readers take from it."""

    def __init__(self, old: int, new: int, generator: torch.Generator):
        self.old = old
        self.units = torch.cat([torch.arange(old), torch.randint(old, (new - old,), generator=generator)])
        share = torch.rand(new, generator=generator) + 0.5
        self.share = share / torch.zeros(old).index_add(0, self.units, share)[self.units]

    def rows(self, tensor: Tensor, dim: int = 0) -> Tensor:
        """Copies along an axis that holds the units once or, gate by gate, several times."""
        gates = tensor.shape[dim] // self.old
        index = torch.cat([self.units + gate * self.old for gate in range(gates)])
        return tensor.index_select(dim, index)

    def columns(self, tensor: Tensor) -> Tensor:
        """Shares out the last axis, which reads the units."""
        return tensor.index_select(-1, self.units) * self.share


@torch.no_grad()
def widen(model: DeepSpeech2ForCTC, hidden_size: int, noise: float = 0.01, seed: int = 0) -> DeepSpeech2ForCTC:
    """A model with more units in every recurrent layer and in the fully connected one.

    Args:
        model: a trained model.
        hidden_size: units of the wider one.
        noise: deviation of the random factors on the copies' incoming weights; with 0 the outputs are those of `model`.
        seed: of the choice of units, the shares and the noise.

    Raises:
        UserError: the model is not narrower than `hidden_size`.
    """
    old = model.config.hidden_size
    if hidden_size <= old:
        raise UserError(f"hidden_size must be above {old}, the model's own, but is {hidden_size}.")
    generator = torch.Generator().manual_seed(seed)
    fields = {name: getattr(model.config, name) for name in DeepSpeech2Config.own_fields()}
    wide = DeepSpeech2ForCTC(DeepSpeech2Config(**fields | {"hidden_size": hidden_size}))
    weights = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in model.state_dict().items()}

    def vary(weight: Tensor, own: Copies, dim: int = 0) -> Tensor:
        """Multiplies the rows of the copies, not of the units that they are copies of, by random factors around 1."""
        gates = weight.shape[dim] // hidden_size
        is_copy = (torch.arange(hidden_size) >= old).repeat(gates).view(-1, *[1] * (weight.ndim - dim - 1))
        return weight * (1 + noise * is_copy * torch.randn(weight.shape, generator=generator))

    below: Copies | None = None  # the first layer reads the convolutions, which stay as they are
    for index in range(model.config.num_hidden_layers):
        own = Copies(old, hidden_size, generator)
        prefix = f"deepspeech2.layers.{index}.rnn."
        incoming = own.rows(weights[prefix + "weight_ih"], 1)
        weights[prefix + "weight_ih"] = vary(incoming if below is None else below.columns(incoming), own, 1)
        weights[prefix + "weight_hh"] = vary(own.columns(own.rows(weights[prefix + "weight_hh"], 1)), own, 1)
        for name in [name for name in weights if name.startswith((prefix + "norm.", prefix + "bias"))]:
            weights[name] = own.rows(weights[name])
        below = own
    for name in [name for name in weights if "row_convolution" in name]:  # one filter for each unit
        weights[name] = below.rows(weights[name])
    own = Copies(old, hidden_size, generator)
    prefix = "deepspeech2.fully_connected."
    weights[prefix + "linear.weight"] = vary(below.columns(own.rows(weights[prefix + "linear.weight"])), own)
    for name in [name for name in weights if name.startswith((prefix + "norm.", prefix + "linear.bias"))]:
        weights[name] = own.rows(weights[name])
    weights["ctc_head.weight"] = own.columns(weights["ctc_head.weight"])
    wide.load_state_dict(weights)
    return wide
