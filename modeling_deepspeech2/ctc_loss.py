"""The CTC loss (section 3.1 of the paper) in the precision and for the alphabets that Deep Speech 2 needs."""

import logging

import torch
import torch.nn.functional as F
from torch import Tensor

from .packed_frames import on_device
from .recurrence import full_precision


logger = logging.getLogger(__name__)


@torch.compiler.disable  # what it looks up depends on the labels
def ctc_loss(
    logits: Tensor, lengths: Tensor, labels: Tensor, blank: int, reduction: str = "mean", zero_infinity: bool = True
) -> Tensor:
    """Connectionist temporal classification (section 3.1), computed in float64 on CPUs and CUDA GPUs, else in float32.

    torch's float32 gradient on the CPU is off by up to 2e-3; float64 costs little beside the recurrence.

    Args:
        logits: (batch, frames, symbols); `lengths`: their valid frames, (batch,).
        labels: (batch, characters), negative or `blank` where there is none. Labels and lengths are looked at on the CPU: if
            they are there already, nothing waits for a GPU.
        reduction: "mean" divides each cost by its number of characters and averages, "sum" adds up.
        zero_infinity: labels that do not fit into their frames cost nothing instead of infinity; a warning names them.
    """
    if len(logits) == 0:  # a process that ran out of data still takes part in the backward pass
        return logits.sum()
    dtype = torch.float64 if logits.device.type in ("cpu", "cuda", "meta") else torch.float32
    lengths, labels = lengths.cpu(), labels.cpu()
    is_label = (labels >= 0) & (labels != blank)
    # CTC needs a frame for each label, and a blank between two equal ones.
    needed = is_label.sum(1) + (is_label[:, 1:] & (labels[:, 1:] == labels[:, :-1])).sum(1)
    for index in (needed > lengths).nonzero().flatten().tolist():
        logger.warning(
            f"The labels of utterance {index} of the batch need {needed[index]} output frames, but it has {lengths[index]}: "
            f"its CTC cost is {'left out' if zero_infinity else 'infinite'}."
        )
    labels, label_counts = labels[is_label], is_label.sum(1)
    with full_precision(logits.device):
        spoken, numbers = torch.cat([labels.new_tensor([blank]), labels]).unique(return_inverse=True)
        if 2 * len(spoken) < logits.shape[-1]:  # a large alphabet, of which most is not spoken: half the time
            logits = _merge_unspoken(logits, on_device(spoken, logits.device))
            blank, labels = int(numbers[0]), numbers[1:]
        costs = F.ctc_loss(
            logits.log_softmax(-1, dtype=dtype).transpose(0, 1),
            on_device(labels, logits.device),
            lengths,
            label_counts,
            blank=blank,
            reduction="none",
            zero_infinity=zero_infinity,
        )
        if reduction == "mean":
            costs = costs / on_device(label_counts.clamp(min=1), logits.device)
        loss = costs.sum() if reduction == "sum" else costs.mean()
        return loss.to(torch.float32 if logits.dtype != torch.float64 else torch.float64)


def _merge_unspoken(logits: Tensor, spoken: Tensor) -> Tensor:
    """Makes one symbol, the last, of all that no transcript of the batch has; the cost and its gradient stay the same.

    (batch, frames, symbols) -> (batch, frames, spoken symbols + 1)
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    unspoken = logits.index_fill(-1, spoken, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([logits.index_select(-1, spoken), unspoken], dim=-1)
