"""What the stock model computes, by output name: the meaning of "eager PyTorch" everywhere in bertx.

Fed only what a tokenizer gives (ids, mask, segments); never the wrapper's mask or positions, whose bugs would
cancel out in a comparison.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bertx.model.loading import Loaded
from bertx.model.tasks import HIDDEN_STATES

if TYPE_CHECKING:
    import torch


def run_stock(
    loaded: Loaded, inputs: Mapping[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], tuple[torch.Tensor, ...]]:
    """(outputs by name, hidden states at the layer boundaries) for one batch of ids, mask and segments."""
    import torch

    with torch.inference_mode():
        result = loaded.model(**inputs, output_hidden_states=True, return_dict=True)
    return named_outputs(result, loaded.pooler), tuple(result.get("hidden_states") or ())


def named_outputs(result: Any, pooler: bool, stack: bool = True) -> dict[str, torch.Tensor]:
    """The named tensors of a transformers output object; a pooler without weights is left out.

    Hidden states are stacked where they have one shape; a family that shortens the sequence has no stack. Where that is
    known (`stack` false), it is not tried: an operator that fails while a trace is made ends the process.
    """
    import torch

    names = ["last_hidden_state", "logits", "start_logits", "end_logits"] + (["pooler_output"] if pooler else [])
    found = {name: result[name] for name in names if isinstance(result.get(name), torch.Tensor)}
    if "start_logits" in found:
        found["logits"] = torch.stack((found["start_logits"], found["end_logits"]), dim=-1)
    # Asked of stack itself: shapes are symbols while a model is captured, and comparing them would fix their size.
    if stack:
        with contextlib.suppress(RuntimeError):
            found[HIDDEN_STATES] = torch.stack(tuple(result.get("hidden_states") or ()))
    return found
