"""How many tokens a model takes, from its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: families whose positions start behind the padding id, so that the last padding_idx + 1 of them are never reached
OFFSET_POSITIONS = frozenset(
    {"roberta", "xlm-roberta", "camembert", "mpnet", "longformer", "xlm-roberta-xl", "data2vec-text", "ibert", "luke",
     "roberta-prelayernorm", "xmod", "mra", "markuplm", "layoutlmv3", "lilt", "esm"}
)  # fmt: skip


def positions(values: Mapping[str, Any], unstated: int | None = None) -> int | None:
    """The longest sequence in tokens that a configuration allows; None where it states none.

    `unstated` is taken for the number of positions where the configuration has none.
    """
    stated = values.get("max_position_embeddings", values.get("n_positions", unstated))
    if not isinstance(stated, int):
        return None
    padding = values.get("pad_token_id")
    padding = padding if isinstance(padding, int) and padding >= 0 else 0
    return stated - (padding + 1 if values.get("model_type") in OFFSET_POSITIONS else 0)
