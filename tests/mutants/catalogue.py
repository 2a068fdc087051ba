"""Every mutant: which faults are made on which stands, in which formats."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from mutants import answered, changed, computed, fed, mapped, odd, remembered, reported, rotated, weighed
from mutants.graph import Array, edit
from mutants.stands import PLANS
from mutants.trial import Mutant

#: stands for every fault; MiniLM, which is slow, has only those named in _REAL, another has only those of pooling
TINY = tuple(name for name in PLANS if name not in ("minilm", "bert-pooled"))
_REAL = (
    "mask-ignored", "mask-as-length", "segments-zero", "positions-shifted", "tanh-gelu", "epsilon-1e-5",
    "layer-skipped-without-taps", "products-in-bfloat16", "products-in-tf32", "query-element-1e-3",
    "query-transposed", "weights-rounded-to-float16", "output-of-layer-before-last", "pooled-cls",
    "ids-through-float16", "counts-in-int8", "truncated-at-128", "mask-over-queries", "rows-sorted-by-length",
    "nan-in-empty-rows", "nan-mean-of-empty-rows", "zero-point-off-by-one", "key-and-value-exchanged",
    "embedding-not-normalised", "as-written", "norms-spelt-out", "optimised-extended", "trace-as-written",
)  # fmt: skip

#: stands whose programs take ids, mask and segments
_THREE_INPUTS = ("bert", "electra", "albert", "bert-sentences", "bert-masked-words")

#: wrong at a token id that no case of `quick` holds where the vocabulary is large; `full` runs every id
_FULL = frozenset({"rare-word-moved"})


def catalogue() -> tuple[Mutant, ...]:
    """All mutants by stand, wrong ones before right ones. Some do not apply to a family: making them says so."""
    found = [mutant for stand in TINY for mutant in (*_wrong(stand), *_right(stand))]
    real = [mutant for mutant in (*_wrong("minilm"), *_right("minilm")) if mutant.name in _REAL]
    pooled = [mutant for mutant in _wrong("bert-pooled") if mutant.fault == "pooling"]
    return (*found, *pooled, *(m for m in real if m.format == "onnx" or m.right or m.fault == "pooling"))


def _wrong(stand: str) -> Iterator[Mutant]:
    for faults in (fed.FAULTS, computed.FAULTS, answered.FAULTS, reported.FAULTS):
        for fault, changes in faults.items():
            for name, change in changes.items():
                yield Mutant(name, fault, stand, "onnx", edit(change))
    for fault, alterations in weighed.FAULTS.items():
        for name, alter in alterations.items():
            full = name in _FULL
            yield Mutant(name, fault, stand, "onnx", edit(weighed.in_graph(alter)), full=full)
            yield Mutant(name, fault, stand, "torchscript", weighed.in_trace(alter), full=full)
    for fault, modules in changed.FAULTS.items():
        for name, module in modules.items():
            yield Mutant(name, fault, stand, "torchscript", changed.export("torchscript", module))
    for fault, makers in changed.WRAPPED.items():
        for name, make in makers.items():
            yield Mutant(name, fault, stand, "torchscript", make)
    for fault, changes in mapped.FAULTS.items():
        for name, change in changes.items():
            yield Mutant(name, fault, stand, "onnx", edit(change), full=True)
    for fault, makers in mapped.WRAPPED.items():
        for name, make in makers.items():
            yield Mutant(name, fault, stand, "torchscript", make, full=True)
    swapped = edit(partial(odd.table_in_halves, alter=_rare_words_swapped))
    yield Mutant("rare-words-swapped-in-halves", "one row", stand, "onnx", swapped, full=True)
    if stand in _THREE_INPUTS:
        for fault, makers in remembered.FAULTS.items():
            for name, make in makers.items():
                yield Mutant(name, fault, stand, "torchscript", make)
    for fault, poolings in changed.POOLED.items():
        for name, pooled in poolings.items():
            yield Mutant(name, fault, stand, "torchscript", pooled("torchscript"))
    for fault, modules in rotated.FAULTS.items() if stand == "modernbert" else ():
        for name, module in modules.items():
            yield Mutant(name, fault, stand, "onnx", changed.export("onnx", module))
            yield Mutant(name, fault, stand, "torchscript", changed.export("torchscript", module))
    for fault, changes in answered.SPANS.items() if stand == "bert-answers" else ():
        for name, change in changes.items():
            yield Mutant(name, fault, stand, "onnx", edit(change))
    if stand == "distilbert-classifier":
        module = changed.FAULTS["activation"]["module-tanh-gelu"]
        yield Mutant("module-tanh-gelu", "activation", stand, "onnx", changed.export("onnx", module))
    if stand in ("bert-sentences", "bert-pooled"):
        yield Mutant("pooled-over-padding", "pooling", stand, "onnx", changed.pooled_over_padding("onnx"))
        yield Mutant("pooled-cls", "pooling", stand, "onnx", changed.pooled("onnx", ("cls",)))


def _rare_words_swapped(table: Array) -> Array:
    """Two rows that no case of `quick` reads where the vocabulary is large."""
    swapped = table.copy()
    swapped[[-27, -31]] = table[[-31, -27]]
    return swapped


def _right(stand: str) -> Iterator[Mutant]:
    for name, change in odd.EDITED.items():
        yield Mutant(name, "right", stand, "onnx", edit(change), right=True)
    for name, (kind, make) in odd.WRITTEN.items():
        yield Mutant(name, "right", stand, kind, make, right=True)
    for name, (stands, kind, make) in odd.SLOW.items():
        if stand in stands:
            yield Mutant(name, "right", stand, kind, make, right=True)
