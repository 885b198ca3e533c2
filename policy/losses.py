"""Losses of policy training: tensors in, a scalar out.

Legend: B rows, T tokens of a row, V vocabulary.
"""

from __future__ import annotations

import torch

IGNORED = -100
"""Label of a token that is no target: PyTorch's `ignore_index`."""


def policy_token_loss(
    logits_BTV: torch.Tensor, labels_BT: torch.Tensor, num_tokens: torch.Tensor | int
) -> torch.Tensor:
    """Cross-entropy in nats of the labelled tokens, each predicted from the position before it, summed over this
    micro-batch and divided by `num_tokens`, the labelled tokens of the whole global batch.

    So micro-batches of one global batch add up to the mean over its tokens, however the examples are split or packed;
    a mean per micro-batch would weigh a token by how few others share its micro-batch. Computed in float32 or better.
    """
    targets_BT = labels_BT[:, 1:]
    is_target_BT = targets_BT != IGNORED
    logits_NV = logits_BTV[:, :-1][is_target_BT]
    if logits_NV.dtype in (torch.float16, torch.bfloat16):
        logits_NV = logits_NV.float()
    total = torch.nn.functional.cross_entropy(logits_NV, targets_BT[is_target_BT], reduction="sum")
    return total / num_tokens
