"""The config policy: config.json is data from outside, and only the part of it that cannot run code is kept.

transformers follows `auto_map` to Python files of the repository and `_attn_implementation` to kernels on the
Hub; both are dropped here and reported. What would change what the weights mean (`quantization_config`, an
adapter) is refused. Strict JSON in bounded memory, and finding files that stay in their folder, stands here
too, because safetensors headers and shard indexes need the same.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertx.errors import InputRefused, escape

#: The largest config.json that is read, in bytes; the largest on the Hub have some hundred thousand labels.
MAX_CONFIG_BYTES = 8 * 2**20
#: Containers inside containers; real configs nest three or four deep.
MAX_DEPTH = 64
#: Commas in one document: a value costs Python some hundred bytes, so 100 MB of `0,0,0` would cost gigabytes.
MAX_COMMAS = 1_000_000

_LONGEST_NUMBER = 1000
_MODEL_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_DROPPED = frozenset({"auto_map", "attn_implementation"})
_REFUSED = {
    "quantization_config": "export the checkpoint that it was quantized from",
    "transformers_weights": "rename the weights to model.safetensors and remove the key",
}
#: Their keys are labels, which may be called anything.
_LABELS = frozenset({"id2label", "label2id"})

#: Size -> its largest believable value. A size is an integer, or a list of them where layers differ.
_LIMITS: dict[str, int] = {
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layers", "n_layer", "num_hidden_groups"), 1000),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "inner_group_num"), 1000),
    **dict.fromkeys(("hidden_size", "embedding_size", "d_model", "dim", "n_embd"), 65_536),
    **dict.fromkeys(("vocab_size", "type_vocab_size", "max_position_embeddings", "n_positions"), 10_000_000),
    **dict.fromkeys(("intermediate_size", "hidden_dim", "d_ff", "encoder_ffn_dim"), 10_000_000),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "n_heads", "n_head"), 10_000_000),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "num_labels"), 10_000_000),
}


@dataclass(frozen=True)
class Config:
    """A config.json after the policy: `values` without what was dropped, `dropped` as dotted paths.

    `changed` says that `values` differ from the file, so that a bundle needs `dumps` and not a copy.
    """

    values: Mapping[str, Any]
    dropped: tuple[str, ...]
    changed: bool

    @property
    def model_type(self) -> str:
        return str(self.values["model_type"])

    @property
    def architectures(self) -> tuple[str, ...]:
        """The class names that the checkpoint was saved from; empty where it names none."""
        return tuple(self.values.get("architectures") or ())


def read_config(folder: Path) -> Config:
    """Reads config.json of a checkpoint folder and applies the policy.

    Raises InputRefused("E_CONFIG") where it is missing, malformed, larger than any real one or quantized, or
    where the folder holds an adapter.
    """
    if locate(folder, "adapter_config.json", "E_CONFIG") is not None:
        raise InputRefused(
            "E_CONFIG",
            f"{escape(folder)} holds an adapter (adapter_config.json), which is not a whole checkpoint",
            "merge it into its base model first (peft: merge_and_unload, then save_pretrained)",
        )
    path = locate(folder, "config.json", "E_CONFIG")
    if path is None:
        raise InputRefused(
            "E_CONFIG",
            f"{escape(folder)} holds no config.json",
            "name a folder that save_pretrained wrote, or a Hub id",
        )
    dropped: list[tuple[str, ...]] = []
    document = parse_json(read_bounded(path, MAX_CONFIG_BYTES, "E_CONFIG"), path, "E_CONFIG")
    values = _cleaned(document, (), dropped)
    _check_model_type(values)
    _check_architectures(values)
    return Config(values, tuple(_dotted(path) for path in dropped), bool(dropped))


def dumps(config: Config) -> str:
    """`config.values` as the text of a config.json: indented by two, to be written as UTF-8."""
    return json.dumps(dict(config.values), ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def locate(folder: Path, name: str, code: str) -> Path | None:
    """`folder / name` where that is a file of the checkpoint; None where there is nothing of that name.

    A link may lead to another file of the folder, or from a snapshot of the Hub cache to the blobs of the
    same repository or of the whole cache. Raises InputRefused(code) for every other link and for what is no
    regular file.
    """
    path = folder / name
    if not path.is_symlink() and not path.exists():
        return None
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        raise InputRefused(
            code, f"{escape(path)} is a link that leads nowhere", "download the checkpoint again"
        ) from error
    if not real.is_file():
        raise InputRefused(code, f"{escape(path)} is no regular file", "put the file itself there")
    if not any(real.is_relative_to(home) for home in _homes(folder.resolve())):
        raise InputRefused(
            code,
            f"{escape(path)} is a link that leaves its folder",
            "copy the file into the folder if you trust it",
        )
    return path


def read_bounded(path: Path, limit: int, code: str) -> bytes:
    """A whole file of at most `limit` bytes. Raises InputRefused(code) where it is larger or unreadable."""
    try:
        with path.open("rb") as handle:
            data = handle.read(limit + 1)
    except OSError as error:
        raise InputRefused(
            code, f"{escape(path)} cannot be read ({error.strerror})", "check the file and its permissions"
        ) from error
    if len(data) > limit:
        raise InputRefused(
            code,
            f"{escape(path)} is larger than {limit:,} bytes",
            "download it again, or ask its author for a whole one",
        )
    return data


def parse_json(data: bytes, path: Path, code: str) -> dict[str, Any]:
    """The JSON object in `data`, in memory bounded by its size.

    Stricter than `json.loads`: UTF-8 only, no duplicate keys, no NaN or infinity, no number of more than 1000
    digits, no half of a surrogate pair, at most `MAX_COMMAS` commas. Else InputRefused(code), naming `path`.
    """
    try:
        if data.count(b",") > MAX_COMMAS:
            raise ValueError(f"more than {MAX_COMMAS:,} values")
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_float,
            parse_int=_integer,
        )
        if not isinstance(value, dict):
            raise ValueError("no object at the top")
        if b"\\u" in data:  # only an escape can make a string that UTF-8 cannot write
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeError as error:
        raise _malformed(path, code, "it is not UTF-8") from error
    except RecursionError as error:
        raise _malformed(path, code, "it nests too deep") from error
    except ValueError as error:
        raise _malformed(path, code, escape(error)) from error
    return value


def _malformed(path: Path, code: str, reason: str) -> InputRefused:
    return InputRefused(code, f"{escape(path)} is malformed: {reason}", "download it again, or correct it")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"it has the key {twice[:100]!r} twice")
    return values


def _constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:30]} is too large")
    return value


def _integer(text: str) -> int | float:
    if len(text) > _LONGEST_NUMBER:
        raise ValueError(f"it has a number of {len(text):,} digits")
    # As an int, -0 would lose its sign; Rust readers take it for a float, too.
    return -0.0 if text == "-0" else int(text)


def _homes(folder: Path) -> list[Path]:
    """The folders in which files of a checkpoint in `folder` (resolved) may really lie."""
    for snapshot in (folder, *folder.parents):
        repository = snapshot.parent.parent
        if snapshot.parent.name == "snapshots" and repository.name.startswith("models--"):
            # With Xet, a repository's blobs are links into a store that all repositories of the cache share.
            return [folder, repository / "blobs", repository.parent / "blobs"]
    return [folder]


def _dotted(path: tuple[str, ...]) -> str:
    return escape(".".join(part[:80] for part in path))


def _cleaned(value: Any, path: tuple[str, ...], dropped: list[tuple[str, ...]]) -> Any:
    """`value` without what is never kept, whose paths are added to `dropped`."""
    if not isinstance(value, dict | list):
        return value
    if len(path) >= MAX_DEPTH:
        raise InputRefused("E_CONFIG", "config.json nests too deep", "download it again, or correct it")
    if isinstance(value, list):
        return [_cleaned(child, (*path, str(index)), dropped) for index, child in enumerate(value)]
    kept: dict[str, Any] = {}
    for key, child in value.items():
        place = (*path, key)
        if key in _REFUSED and child is not None:
            raise InputRefused("E_CONFIG", f"config.json has {_dotted(place)}", _REFUSED[key])
        if key in _DROPPED or key in _REFUSED or key.startswith("_attn_implementation"):
            dropped.append(place)
            continue
        if key in _LIMITS:
            _check_size(place, child)
        kept[key] = child if key in _LABELS and _flat(child) else _cleaned(child, place, dropped)
    return kept


def _flat(value: Any) -> bool:
    return isinstance(value, dict) and not any(isinstance(child, dict | list) for child in value.values())


def _check_size(path: tuple[str, ...], value: Any) -> None:
    limit = _LIMITS[path[-1]]
    for size in value if isinstance(value, list) else [value]:
        # null leaves the size to the family's default; bool would pass for an int.
        if size is not None and (type(size) is not int or not 0 <= size <= limit):
            raise InputRefused(
                "E_CONFIG",
                f"config.json has {_dotted(path)} = {escape(str(size)[:40])}",
                f"it must be a whole number from 0 to {limit:,}",
            )


def _check_model_type(values: Mapping[str, Any]) -> None:
    hint = 'set it to the name of the family, such as "bert"'
    if values.get("model_type") is None:
        raise InputRefused("E_CONFIG", "config.json names no model_type", hint)
    name = values["model_type"]
    if not isinstance(name, str) or not _MODEL_TYPE.fullmatch(name):
        raise InputRefused("E_CONFIG", f"config.json has model_type = {escape(str(name)[:80])}", hint)


def _check_architectures(values: Mapping[str, Any]) -> None:
    names = values.get("architectures")
    if names is None:
        return
    if not isinstance(names, list) or not all(isinstance(name, str) and name.isidentifier() for name in names):
        raise InputRefused(
            "E_CONFIG",
            f"config.json has architectures = {escape(str(names)[:80])}",
            'it must be a list of class names, such as ["BertModel"]',
        )
