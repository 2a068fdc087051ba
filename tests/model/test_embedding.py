"""Sentence embeddings: both of our readings of a folder's modules agree with sentence-transformers itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

from bertx.checkpoint import open_folder
from bertx.errors import InputRefused
from bertx.model.embedding import embedder
from bertx.model.loading import load
from bertx.model.modules import build_pooling, read_pooling
from bertx.model.stock import run_stock
from bertx.model.tasks import TASKS, resolve_task

MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
HIDDEN = 32
#: what follows pooling: (output sizes of Dense layers, normalised or not)
TAILS: tuple[tuple[tuple[int, ...], bool], ...] = (((), False), ((), True), ((16,), False), ((24, 16), True))

#: name -> rows of valid tokens, each with at least one
MASKS = {
    "full": [[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]],
    "right": [[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]],
    "left": [[1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 1]],
    "holes": [[1, 0, 1, 1, 0, 0, 1], [0, 1, 0, 1, 0, 1, 0], [0, 0, 1, 0, 1, 0, 0]],
}


def saved(folder: Path, base: Path, modes: tuple[str, ...], sizes: tuple[int, ...], normalize: bool) -> Path:
    """A sentence-transformers folder as the library itself writes it, with Dense layers of unit scale."""
    pooling = Pooling(HIDDEN, modes[0] if len(modes) == 1 else modes)
    chain: list[Any] = [Transformer(str(base)), pooling]
    width = HIDDEN * len(modes)
    torch.manual_seed(1)
    for size, activation in zip(sizes, (torch.nn.Tanh(), torch.nn.Identity()), strict=False):
        layer = Dense(width, size, bias=size != 16, activation_function=activation)
        torch.nn.init.normal_(layer.linear.weight, std=width**-0.5)
        chain.append(layer)
        width = size
    SentenceTransformer(modules=[*chain, *([Normalize()] if normalize else [])], device="cpu").save(str(folder))
    return folder


def after_encoder(folder: Path, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """What the library makes of token embeddings: every module but the first."""
    features: dict[str, Any] = {"token_embeddings": tokens, "attention_mask": mask}
    with torch.inference_mode():
        for module in list(SentenceTransformer(str(folder), device="cpu", local_files_only=True))[1:]:
            features = module(features)
    return torch.as_tensor(features["sentence_embedding"])


@pytest.fixture(scope="module")
def folder(
    made: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[tuple[str, ...], tuple[int, ...], bool], Path]:
    """folder(modes, sizes of Dense layers, normalised) -> a sentence-transformers folder, made once."""
    folders: dict[object, Path] = {}

    def once(modes: tuple[str, ...], sizes: tuple[int, ...] = (), normalize: bool = False) -> Path:
        key = (modes, sizes, normalize)
        if key not in folders:
            folders[key] = saved(tmp_path_factory.mktemp("sentences") / "tiny", made("bert"), *key)
        return folders[key]

    return once


def random(mask: torch.Tensor) -> torch.Tensor:
    return torch.randn(*mask.shape, HIDDEN, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("sizes", "normalize"), TAILS)
def test_both_readings_agree_with_the_library(folder: Any, mode: str, sizes: tuple[int, ...], normalize: bool) -> None:
    place = folder((mode,), sizes, normalize)
    traced, reference = build_pooling(read_pooling(place)), embedder(place)
    for rows in MASKS.values():
        mask = torch.tensor(rows)
        tokens = random(mask)
        expected = after_encoder(place, tokens, mask)
        with torch.inference_mode():
            assert torch.allclose(traced(tokens, mask), expected, atol=2e-6)
            assert torch.allclose(reference(tokens, mask), expected, atol=2e-6)


def test_several_modes_are_joined_in_their_order(folder: Any) -> None:
    place = folder(("max", "cls", "mean"), (16,), True)
    mask = torch.tensor(MASKS["holes"])
    expected = after_encoder(place, random(mask), mask)
    assert read_pooling(place).modes == ("max", "cls", "mean")
    with torch.inference_mode():
        assert torch.allclose(build_pooling(read_pooling(place))(random(mask), mask), expected, atol=2e-6)
        assert torch.allclose(embedder(place)(random(mask), mask), expected, atol=2e-6)


@pytest.mark.parametrize("mode", MODES)
def test_the_old_layout_of_booleans_means_what_the_new_one_does(folder: Any, tmp_path: Path, mode: str) -> None:
    place = tmp_path / "old"
    shutil.copytree(folder((mode,)), place)
    keys = {
        "cls": "pooling_mode_cls_token",
        "lasttoken": "pooling_mode_lasttoken",
        "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    }
    names = [keys.get(each, f"pooling_mode_{each}_tokens") for each in MODES]
    old = {"word_embedding_dimension": HIDDEN, **dict.fromkeys(names, False), names[MODES.index(mode)]: True}
    (place / "1_Pooling" / "config.json").write_text(json.dumps(old), "utf-8")
    assert read_pooling(place).modes == (mode,)
    mask = torch.tensor(MASKS["left"])
    assert torch.allclose(embedder(place)(random(mask), mask), after_encoder(place, random(mask), mask), atol=2e-6)


@pytest.mark.parametrize(("mode", "dtype"), [*product(MODES, ("float16", "bfloat16", "float32", "float64"))])
def test_a_row_without_a_valid_token_is_finite_at_every_dtype(folder: Any, mode: str, dtype: str) -> None:
    mask = torch.tensor([[0, 0, 0, 0], [1, 1, 0, 0]])
    kind = getattr(torch, dtype)
    with torch.inference_mode():
        made = build_pooling(read_pooling(folder((mode,), (24, 16), True))).to(kind)(random(mask).to(kind), mask)
    assert made.dtype == kind
    assert made.isfinite().all()


@pytest.mark.parametrize(("mode", "dtype"), [*product(MODES, ("float16", "bfloat16"))])
def test_a_long_text_is_pooled_in_half_precision_as_the_library_does(folder: Any, mode: str, dtype: str) -> None:
    """bfloat16 counts to 256, and a float16 sum of a long text is infinite: neither may decide which token is last."""
    mask = torch.ones(2, 700, dtype=torch.int64)
    mask[0, 650:] = 0
    tokens = (random(mask) + 8).to(getattr(torch, dtype))
    place = folder((mode,))
    expected = after_encoder(place, tokens, mask).double()
    with torch.inference_mode():
        for found in (build_pooling(read_pooling(place))(tokens, mask), embedder(place)(tokens, mask)):
            assert found.isfinite().all()
            assert torch.allclose(found.double(), expected, rtol=4 * torch.finfo(tokens.dtype).eps)


def test_a_folder_with_modules_is_sentence_similarity(folder: Any) -> None:
    checkpoint = open_folder(folder(("mean",)))
    assert resolve_task("auto", checkpoint.config.architectures, checkpoint.folder).name == "sentence-similarity"


def test_a_folder_without_modules_cannot_be_asked_for_sentence_similarity(made: Callable[..., Path]) -> None:
    with pytest.raises(InputRefused, match=r"needs modules\.json"):
        resolve_task("sentence-similarity", ("BertModel",), made("bert"))


def test_a_real_model_gives_the_embeddings_of_the_library(minilm: Path) -> None:
    texts = ["A short one.", "Zürich, naïve café: a longer text, with more words than the first has.", "One"]
    library = SentenceTransformer(str(minilm), device="cpu", local_files_only=True)
    expected = torch.as_tensor(library.encode(texts, convert_to_numpy=True))
    features = library.preprocess(texts) if hasattr(library, "preprocess") else library.tokenize(texts)
    inputs = {name: features[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    tokens = run_stock(load(open_folder(minilm), TASKS["sentence-similarity"]), inputs)[0]["last_hidden_state"]
    with torch.inference_mode():
        assert torch.allclose(embedder(minilm)(tokens, inputs["attention_mask"]), expected, atol=1e-6)
        assert torch.allclose(
            build_pooling(read_pooling(minilm))(tokens, inputs["attention_mask"]), expected, atol=1e-6
        )


@pytest.mark.parametrize("mode", MODES)
def test_a_row_without_a_token_gives_numbers_and_leaves_the_other_rows_alone(mode: str, tmp_path: Path) -> None:
    (tmp_path / "1_Pooling").mkdir()
    modules = [{"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]
    (tmp_path / "modules.json").write_text(
        json.dumps([{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}, *modules])
    )
    settings = {"word_embedding_dimension": HIDDEN, "pooling_mode": mode}
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    tokens = torch.randn(2, 7, HIDDEN, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1] * 5 + [0] * 2, [0] * 7])
    for embed in (embedder(tmp_path), build_pooling(read_pooling(tmp_path))):
        made = embed(tokens, mask)
        assert made.isfinite().all()
        assert torch.allclose(made[:1], embed(tokens[:1], mask[:1]))
