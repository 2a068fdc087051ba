"""The module chain of a sentence-transformers folder: pooling, Dense layers, normalisation.

An embedding without them is another embedding, so an unknown module is refused, never skipped. Both layouts of
pooling configuration are read: the booleans of versions before 5.4 and the `pooling_mode` string since.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertx.checkpoint.torchfile import read_torch_file
from bertx.checkpoint.writer import write_safetensors
from bertx.errors import InputRefused, escape

if TYPE_CHECKING:
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

#: what the first module may say of how it calls the encoder: anything else is another computation
_CALLS = {
    "transformer_task": "feature-extraction",
    "module_output_name": "token_embeddings",
    "method": "forward",
    "method_output_name": "last_hidden_state",
}
#: what later modules may say of what they read and write
_FEATURES = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}


@dataclass(frozen=True)
class Dense:
    """A linear layer after pooling; `folder` holds its config.json and its weights, safetensors or .bin."""

    folder: Path
    activation: str
    bias: bool

    def weights(self) -> dict[str, torch.Tensor]:
        """linear.weight (out, in) and, where there is one, linear.bias (out). Raises InputRefused(E_MODULES)."""
        import torch

        place = self.folder.name
        try:
            tensors = self._tensors()
        except Exception as error:  # whatever the reader raises, there are no weights to compute with
            what = f"{escape(place)} has no weights that can be read: {escape(error)}"
            raise InputRefused("E_MODULES", what, "save it with safetensors") from error
        wanted = {"linear.weight", "linear.bias"} if self.bias else {"linear.weight"}
        if set(tensors) != wanted:
            found = ", ".join(escape(name, 60) for name in sorted(tensors)[:4])
            raise InputRefused(
                "E_MODULES", f"{escape(place)} holds {found}", f"it needs {' and '.join(sorted(wanted))}"
            )
        if tensors["linear.weight"].ndim != 2 or (self.bias and tensors["linear.bias"].ndim != 1):
            raise InputRefused("E_MODULES", f"{escape(place)} holds misshapen tensors", "check the folder")
        for name, tensor in tensors.items():
            if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
                raise InputRefused("E_MODULES", f"{escape(place)}: {name} is not finite", "the checkpoint is damaged")
        return dict(tensors)

    def _tensors(self) -> dict[str, torch.Tensor]:
        """Through safetensors in any case: nothing is unpickled."""
        from safetensors.torch import load_file

        file = self.folder / "model.safetensors"
        if file.is_file():
            return dict(load_file(file))
        with tempfile.TemporaryDirectory(prefix="bertx-") as name:
            copied = Path(name) / file.name
            write_safetensors(read_torch_file(self.folder / "pytorch_model.bin"), copied)
            return dict(load_file(copied))


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
    foreign = [str(m.get("type")) for m in modules if not str(m.get("type")).startswith("sentence_transformers.")]
    if foreign:
        raise InputRefused(
            "E_MODULES",
            f"module {escape(foreign[0], 80)} is code of the checkpoint's own",
            "use --task feature-extraction",
        )
    kinds = [str(module.get("type")).rsplit(".", 1)[-1] for module in modules]
    paths = [str(module.get("path", "")) for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or paths[0] != "":
        raise InputRefused(
            "E_MODULES",
            f"modules {escape(kinds)} do not begin with Transformer and Pooling",
            "check modules.json",
        )
    _check_call(folder)
    dense: list[Dense] = []
    normalize = False
    for kind, path in list(zip(kinds, paths, strict=True))[2:]:
        if kind == "Normalize":
            config = _inside(folder, path) / "config.json"
            _check_stated(_load(config) if config.is_file() else {}, _FEATURES, kind)
            normalize = True
        elif kind == "Dense" and not normalize:
            dense.append(_dense(_inside(folder, path)))
        elif kind != "Dropout":
            raise InputRefused(
                "E_MODULES", f"module {escape(kind)} is not understood here", "use --task feature-extraction"
            )
    return Pooling(_modes(_load(_inside(folder, paths[1]) / "config.json")), tuple(dense), normalize)


def _check_call(folder: Path) -> None:
    """Refuses a first module that calls the encoder for anything but the last hidden state of a text."""
    for path in sorted(folder.glob("sentence_*_config.json")):
        stated = _load(path)
        _check_stated(stated, _CALLS, path.name)
        modalities = stated.get("modality_config")
        if modalities is not None:
            text = modalities.get("text") if isinstance(modalities, dict) else None
            _check_stated(text, _CALLS, f"{path.name}: modality_config")


def _check_stated(stated: Any, allowed: dict[str, str], place: str) -> None:
    if not isinstance(stated, dict):
        raise InputRefused("E_MODULES", f"{escape(place)} is malformed", "check the folder")
    for key, value in allowed.items():
        if stated.get(key) not in (None, value):
            raise InputRefused(
                "E_MODULES", f"{escape(place)} has {key} = {escape(stated[key], 60)}", "use --task feature-extraction"
            )


def _inside(folder: Path, path: str) -> Path:
    parts = Path(path).parts
    if not parts or Path(path).is_absolute() or ".." in parts:
        raise InputRefused("E_MODULES", f"modules.json names the path {escape(path)!r}", "paths must lie in the folder")
    return folder / path


def _dense(folder: Path) -> Dense:
    config = _load(folder / "config.json")
    _check_stated(config, _FEATURES, folder.name)
    if config.get("use_residual"):
        raise InputRefused("E_MODULES", f"{escape(folder.name)} has use_residual", "use --task feature-extraction")
    stated = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    activation = stated.rsplit(".", 1)[-1]
    if activation not in _ACTIVATIONS or not stated.startswith("torch.nn."):
        raise InputRefused(
            "E_MODULES", f"activation {escape(stated, 80)} is unknown", f"known: {', '.join(_ACTIVATIONS)} of torch.nn"
        )
    return Dense(folder, activation, bool(config.get("bias", True)))


def build_pooling(pooling: Pooling) -> torch.nn.Module:
    """A torch module (token embeddings (batch, sequence, hidden), mask (batch, sequence)) -> (batch, dimension).

    It holds no dtype and gives finite numbers for a row without a valid token at every dtype.
    """
    import torch

    class Embedding(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = torch.nn.ModuleList(_linear(layer) for layer in pooling.dense)

        def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            embedding = torch.cat([_pool(mode, tokens, mask) for mode in pooling.modes], dim=-1)
            for layer, linear in zip(pooling.dense, self.dense, strict=True):
                embedding = getattr(torch.nn, layer.activation)()(linear(embedding))
            return _normalize(embedding) if pooling.normalize else embedding

    return Embedding()


def _linear(layer: Dense) -> torch.nn.Linear:
    import torch

    tensors = {name.removeprefix("linear."): tensor.float() for name, tensor in layer.weights().items()}
    rows, columns = tensors["weight"].shape
    linear = torch.nn.Linear(columns, rows, bias=layer.bias)
    try:
        linear.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputRefused("E_MODULES", f"{escape(layer.folder.name)} is misshapen", "check the folder") from error
    return linear


def _normalize(embedding: torch.Tensor) -> torch.Tensor:
    import torch

    length = torch.linalg.vector_norm(embedding, dim=-1, keepdim=True)
    # The usual lower limit, 1e-12, is zero in float16.
    return embedding / torch.where(length > 0, length, torch.ones_like(length)).clamp_min(1e-12)


def _pool(mode: str, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """One pooling mode: tokens (batch, sequence, hidden), mask (batch, sequence) of ones and zeros.

    As sentence-transformers 6 computes them, left padding included: "cls" is the first valid token, and the weights
    of "weightedmean" start at it. Tokens are counted in the mask's integers, since bfloat16 counts to 256 only, and
    weights are divided before they multiply, since sums over a text can leave float16.
    """
    import torch

    keep = mask.unsqueeze(-1)
    seen, count = torch.cumsum(keep, dim=1), keep.sum(dim=1, keepdim=True)
    if mode == "max":
        # The lowest number of the tensor's own dtype, so that the file can be moved to another one.
        lowest = torch.nan_to_num(torch.log(torch.zeros_like(tokens)))
        highest = torch.amax(torch.where(keep > 0, tokens, lowest), dim=1)
        return torch.where(count.squeeze(1) > 0, highest, torch.zeros_like(highest))
    if mode in ("cls", "lasttoken"):
        wanted = torch.ones_like(count) if mode == "cls" else count
        chosen = torch.where((seen == wanted) & (keep > 0), tokens, torch.zeros_like(tokens))
        return chosen.sum(dim=1)
    if mode == "weightedmean":
        # Positions count from the first valid token on, holes included.
        keep = keep * torch.cumsum((seen > 0).type_as(keep), dim=1)
    weight = keep.type_as(tokens) / torch.clamp(keep.amax(dim=1, keepdim=True), min=1).type_as(tokens)
    total = torch.clamp(weight.sum(dim=1, keepdim=True), min=1)
    return (tokens * (weight / (torch.sqrt(total) if mode == "mean_sqrt_len_tokens" else total))).sum(dim=1)
