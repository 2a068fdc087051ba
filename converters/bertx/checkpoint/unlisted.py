"""A snapshot in the Hub cache that another program filled with what it needed itself: is there all that bertx needs?

Nobody noted what the repository holds. But huggingface_hub leaves an empty file in `.no_exist/<commit>/` for each name
that was asked for in vain: transformers does so for every file of a tokenizer, sentence-transformers for its own too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from bertx.checkpoint.config import MAX_CONFIG_BYTES, locate, read_bounded, read_config
from bertx.checkpoint.listing import names, weights
from bertx.checkpoint.weights import INDEX, weight_map

_VOCABULARY = re.compile(r"vocab\.(txt|json)|bpe\.codes|[\w.-]+\.model", re.ASCII)
_TOKENIZER = "tokenizer.json"
_MODULES = "modules.json"
#: files of a tokenizer that change what it gives, and may well not be
_SETTINGS = (_TOKENIZER, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


@dataclass(frozen=True)
class Unlisted:
    """The files of a snapshot. `vain` are the names that the repository is known not to have."""

    folder: Path
    vain: Collection[str]

    def lacking(self) -> list[str]:
        """Names of files without which the checkpoint is not whole. Raises InputRefused where one is malformed."""
        there = set(names(self.folder))
        if "config.json" not in there:
            return ["config.json"]
        return [*self._weights(there), *self._tokenizer(there), *self._modules(there)]

    def unknown(self) -> list[str]:
        """Names of files that would change the results, and of which nobody knows whether the repository has them."""
        there = set(names(self.folder))
        of_sentences = ["sentence_bert_config.json"] if _MODULES in there else []
        of_text = _SETTINGS if self._reads_text() else ()
        return [name for name in (_MODULES, *of_sentences, *of_text) if name not in there and name not in self.vain]

    def _reads_text(self) -> bool:
        return "vocab_size" in read_config(self.folder).values

    def _weights(self, there: Collection[str]) -> list[str]:
        """Every shard that an index names; without any weights, the name that transformers asks for first."""
        found = weights(there)
        if not found:
            return ["model.safetensors"]
        index = locate(self.folder, found[0], "E_WEIGHTS") if found[0].endswith(INDEX) else None
        return [] if index is None else sorted(weight_map(index).keys() - set(there))

    def _tokenizer(self, there: Collection[str]) -> list[str]:
        """What a model that reads text has: tokenizer.json or a vocabulary, unless both were asked for in vain."""
        if not self._reads_text() or _TOKENIZER in there:
            return []
        found = {name for name in there if _VOCABULARY.fullmatch(name)}
        if "vocab.json" in found and "merges.txt" not in {*there, *self.vain}:
            return ["merges.txt"]
        if found or _TOKENIZER not in self.vain:
            return [] if found else [_TOKENIZER]
        none = any(_VOCABULARY.fullmatch(name) for name in self.vain)
        return [] if none else ["the vocabulary (vocab.txt, vocab.json, bpe.codes or *.model)"]

    def _modules(self, there: Collection[str]) -> list[str]:
        """What the modules that modules.json names consist of; what is wrong with it is refused where it is read."""
        path = locate(self.folder, _MODULES, "E_MODULES")
        if path is None:
            return []
        try:
            stated = json.loads(read_bounded(path, MAX_CONFIG_BYTES, "E_MODULES"))
            modules = [(str(each["type"]).rpartition(".")[2], str(each["path"])) for each in stated]
        except (ValueError, RecursionError, TypeError, KeyError):
            return []
        lacking = []
        for kind, folder in modules:
            config, layer = f"{folder}/config.json", f"{folder}/model.safetensors"
            if kind in ("Pooling", "Dense") and config not in there:
                lacking.append(config)
            if kind == "Dense" and not {layer, f"{folder}/pytorch_model.bin"} & set(there):
                lacking.append(layer)
        return lacking
