"""The module chain of a sentence-transformers folder: pooling, Dense layers, normalisation.

An embedding without them is another embedding, so an unknown module is refused, never skipped. Both layouts of
pooling configuration are read: the booleans of versions before 5.4 and the `pooling_mode` string since.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertx.errors import InputRefused, escape

if TYPE_CHECKING:
    import numpy as np
    import torch

#: boolean key of older configurations -> mode, in the order in which their outputs are concatenated
_BOOLEANS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "Sigmoid")


@dataclass(frozen=True)
class Dense:
    """A linear layer after pooling; `folder` holds its config.json and model.safetensors."""

    folder: Path
    activation: str
    bias: bool

    def weights(self) -> dict[str, np.ndarray[Any, Any]]:
        """linear.weight (out, in) and, where there is one, linear.bias (out)."""
        from safetensors.numpy import load_file

        path = self.folder / "model.safetensors"
        if not path.is_file():
            raise InputRefused(
                "E_MODULES",
                f"{escape(self.folder.name)} has no model.safetensors",
                "save it with safetensors",
            )
        tensors = dict(load_file(path))
        wanted = {"linear.weight", "linear.bias"} if self.bias else {"linear.weight"}
        if set(tensors) != wanted:
            raise InputRefused(
                "E_MODULES",
                f"{escape(self.folder.name)} holds {sorted(tensors)}",
                f"it needs {sorted(wanted)}",
            )
        return tensors


@dataclass(frozen=True)
class Pooling:
    """What follows the encoder: modes (concatenated in order), Dense layers in order, then normalisation or not."""

    modes: tuple[str, ...]
    dense: tuple[Dense, ...]
    normalize: bool


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputRefused(
            "E_MODULES", f"{escape(path.name)} cannot be read: {escape(error)}", "check the folder"
        ) from error


def _modes(config: dict[str, Any]) -> tuple[str, ...]:
    mode = config.get("pooling_mode")
    modes = (mode,) if isinstance(mode, str) else tuple(mode or ()) if isinstance(mode, list | tuple) else ()
    modes = modes or tuple(name for key, name in _BOOLEANS.items() if config.get(key) is True)
    unknown = [m for m in modes if m not in _BOOLEANS.values()]
    if unknown or not modes:
        raise InputRefused(
            "E_MODULES", f"pooling modes {escape(unknown or config)} are unknown", "pool in the application"
        )
    if config.get("include_prompt") is False:
        raise InputRefused(
            "E_MODULES",
            "pooling leaves the prompt out, which an artifact cannot know",
            "pool in the application",
        )
    return modes


def read_pooling(folder: Path) -> Pooling:
    """Reads modules.json and what it names. Raises InputRefused(E_MODULES) on anything not understood."""
    modules = _load(folder / "modules.json")
    if not isinstance(modules, list) or not all(isinstance(m, dict) for m in modules):
        raise InputRefused("E_MODULES", "modules.json is no list of modules", "check the folder")
    kinds = [str(module.get("type", "")).rsplit(".", 1)[-1] for module in modules]
    paths = [str(module.get("path", "")) for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or paths[0] != "":
        raise InputRefused(
            "E_MODULES",
            f"modules {escape(kinds)} do not begin with Transformer and Pooling",
            "check modules.json",
        )
    dense: list[Dense] = []
    normalize = False
    for kind, path in list(zip(kinds, paths, strict=True))[2:]:
        if kind == "Normalize":
            normalize = True
        elif kind == "Dense" and not normalize:
            dense.append(_dense(_inside(folder, path)))
        elif kind != "Dropout":
            raise InputRefused(
                "E_MODULES", f"module {escape(kind)} is not understood here", "use --task feature-extraction"
            )
    return Pooling(_modes(_load(_inside(folder, paths[1]) / "config.json")), tuple(dense), normalize)


def _inside(folder: Path, path: str) -> Path:
    parts = Path(path).parts
    if not parts or Path(path).is_absolute() or ".." in parts:
        raise InputRefused("E_MODULES", f"modules.json names the path {escape(path)!r}", "paths must lie in the folder")
    return folder / path


def _dense(folder: Path) -> Dense:
    config = _load(folder / "config.json")
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh")).rsplit(".", 1)[-1]
    if activation not in _ACTIVATIONS:
        raise InputRefused(
            "E_MODULES", f"activation {escape(activation)} is unknown", f"known: {', '.join(_ACTIVATIONS)}"
        )
    return Dense(folder, activation, bool(config.get("bias", True)))


def build_pooling(pooling: Pooling) -> torch.nn.Module:
    """A torch module (token embeddings (batch, sequence, hidden), mask (batch, sequence)) -> (batch, dimension)."""
    import torch

    class Embedding(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = torch.nn.ModuleList(_linear(layer) for layer in pooling.dense)

        def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            weight = mask.unsqueeze(-1).type_as(tokens)
            embedding = torch.cat([_pool(mode, tokens, weight) for mode in pooling.modes], dim=-1)
            for layer, linear in zip(pooling.dense, self.dense, strict=True):
                embedding = getattr(torch.nn, layer.activation)()(linear(embedding))
            return torch.nn.functional.normalize(embedding, dim=-1) if pooling.normalize else embedding

    return Embedding()


def _linear(layer: Dense) -> torch.nn.Linear:
    import torch

    tensors = {name.removeprefix("linear."): torch.from_numpy(array) for name, array in layer.weights().items()}
    rows, columns = tensors["weight"].shape
    linear = torch.nn.Linear(columns, rows, bias=layer.bias)
    linear.load_state_dict(tensors)
    return linear


def _pool(mode: str, tokens: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """One pooling mode: tokens (batch, sequence, hidden), weight (batch, sequence, 1) of ones and zeros.

    As sentence-transformers 6 computes them, left padding included: "cls" is the first valid token, and the weights
    of "weightedmean" start at it.
    """
    import torch

    if mode == "max":
        # The lowest number of the tensor's own dtype, so that the file can be moved to another one.
        return torch.amax(torch.where(weight > 0, tokens, torch.nan_to_num(torch.log(torch.zeros_like(tokens)))), dim=1)
    seen = torch.cumsum(weight, dim=1)
    if mode in ("cls", "lasttoken"):
        wanted = torch.ones_like(seen[:, :1]) if mode == "cls" else weight.sum(dim=1, keepdim=True)
        return (tokens * ((seen == wanted) & (weight > 0)).type_as(tokens)).sum(dim=1)
    if mode == "weightedmean":
        # Positions count from the first valid token on, holes included.
        weight = weight * torch.cumsum((seen > 0).type_as(weight), dim=1)
    total = torch.clamp(weight.sum(dim=1), min=1e-9)
    return (tokens * weight).sum(dim=1) / (torch.sqrt(total) if mode == "mean_sqrt_len_tokens" else total)
