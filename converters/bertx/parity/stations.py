"""What eager PyTorch computes between two layer boundaries, part by part: the reference of a diagnosis.

    python -m bertx.parity.stations --artifact F --inputs CASES --outputs OUT --dtype D --device D --boundary K

A station is a tensor that one of the layer's modules takes or gives, or a softmax; what is passed on unchanged is one
station in several places. Which modules these are is asked of the model by running it, so no family needs a line here.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertx.checkpoint import Checkpoint
from bertx.errors import SourceUnavailable
from bertx.runtimes import process
from bertx.runtimes.eager import EagerProgram
from bertx.runtimes.protocol import Tensors, guarded, read_tensors, write_outputs

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

TAKES, GIVES = "takes", "gives"
#: the place of a softmax in the module that calls it
SOFTMAX = "softmax"


@dataclass(frozen=True)
class Station:
    """One tensor: its name in words, the module it belongs to, its places as (takes or gives, module), the stations
    that it was computed from, and its values by case, exact and rounded."""

    name: str
    module: str
    places: tuple[tuple[str, str], ...]
    needs: frozenset[int]
    exact: Mapping[str, Array]
    rounded: Mapping[str, Array]


@dataclass(frozen=True)
class Stations:
    """The stations in the order of computation, the last of them the later boundary; modules with matrices, and norms
    in the order of their calls."""

    listed: tuple[Station, ...]
    weights: Mapping[str, Array]
    norms: tuple[str, ...]


def compute(
    checkpoint: Checkpoint, inputs: Path, dtype: str, device: str, boundary: int, limits: process.Limits
) -> Stations:
    """The stations on a file of cases. Raises SourceUnavailable where they cannot be told."""
    outputs = inputs.with_name("stations.safetensors")
    paths = {"artifact": checkpoint.folder / "model", "inputs": inputs, "outputs": outputs}
    named = {**paths, "dtype": dtype, "device": device, "boundary": boundary}
    command = [sys.executable, "-P", "-m", __name__, *(part for k, v in named.items() for part in (f"--{k}", str(v)))]
    ended = process.run(command, limits)
    if ended.reason is not None:
        raise SourceUnavailable(
            "E_REFERENCE", f"the parts of the layer cannot be told: {ended.reason}", "see docs/parity.md"
        )
    return read(read_tensors(outputs))


def read(made: Tensors) -> Stations:
    """The stations that the program wrote."""
    facts = json.loads(made.metadata["stations"])
    cases = [case for case in made.arrays if case != "weights"]
    listed = tuple(
        Station(
            each["name"],
            each["module"],
            tuple((kind, module) for kind, module in each["places"]),
            frozenset(each["needs"]),
            *({case: made.arrays[case][f"{kind}.{k}"] for case in cases} for kind in ("exact", "rounded")),
        )
        for k, each in enumerate(facts["stations"])
    )
    weights = {name: made.arrays["weights"][str(k)] for k, name in enumerate(facts["weights"])}
    return Stations(listed, weights, tuple(facts["norms"]))


@dataclass(frozen=True)
class _Event:
    """A tensor seen at a place; `needs` are the events that it was computed from."""

    kind: str
    module: str
    tensor: Any
    needs: frozenset[int]


@dataclass
class _Log:
    """What passes a model's modules in one run; of the events in `kept` (None: of all) the tensors are remembered."""

    kept: range | None = None
    events: list[_Event] = field(default_factory=list)
    calling: list[str] = field(default_factory=list)
    #: id of a tensor -> the events it depends on; `alive` keeps ids from being used again
    origin: dict[int, frozenset[int]] = field(default_factory=dict)
    alive: list[Any] = field(default_factory=list)

    def note(self, kind: str, module: str, value: Any) -> None:
        tensor = _first(value)
        if tensor is None:
            return
        number = len(self.events)
        keeps = self.kept is None or number in self.kept
        needs = self.origin.get(id(tensor), frozenset())
        self.events.append(
            _Event(kind, module, (tensor if self.kept is None else tensor.clone()) if keeps else None, needs)
        )
        if self.kept is None:
            self.origin[id(tensor)] = needs | {number}

    def follow(self, inputs: Sequence[Any], output: Any) -> None:
        """Remembers what a tensor was computed from."""
        import torch

        if self.kept is not None:
            return
        found = frozenset().union(*(self.origin.get(id(each), frozenset()) for each in inputs))
        for each in _tensors(output):
            if isinstance(each, torch.Tensor):
                self.alive.append(each)
                self.origin[id(each)] = self.origin.get(id(each), frozenset()) | found


def _tensors(value: Any) -> Iterator[Any]:
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from (each for part in value.values() for each in _tensors(part))
    elif isinstance(value, tuple | list):
        yield from (each for part in value for each in _tensors(part))


def _first(value: Any) -> Any:
    """The first floating-point tensor of what a module takes or gives."""
    return next((each for each in _tensors(value) if each.is_floating_point()), None)


def _run(stock: EagerProgram, inputs: Mapping[str, Any], kept: range | None = None) -> tuple[_Log, Mapping[str, Any]]:
    """What a stock model's modules take and give on one case, and its outputs."""
    from torch.overrides import TorchFunctionMode

    log = _Log(kept)

    class Watch(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            given = kwargs or {}
            output = function(*args, **given)
            name = getattr(function, "__name__", "")
            if name == SOFTMAX and log.calling:
                log.note(TAKES, f"{log.calling[-1]}.{SOFTMAX}", args)
            log.follow([*_tensors(args), *_tensors(given)], output)
            if name == SOFTMAX and log.calling:
                log.note(GIVES, f"{log.calling[-1]}.{SOFTMAX}", output)
            return output

    handles = []
    for path, module in stock.loaded.model.named_modules():

        def before(module: Any, args: Any, given: Any, path: str = path) -> None:
            if not any(True for _ in module.children()) and getattr(module, "weight", None) is not None:
                log.note(TAKES, path, (args, given))
            log.calling.append(path)

        def after(module: Any, args: Any, output: Any, path: str = path) -> None:
            log.calling.pop()
            log.note(GIVES, path, output)

        handles += [module.register_forward_pre_hook(before, with_kwargs=True), module.register_forward_hook(after)]
    try:
        with Watch():
            outputs = stock.run(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return log, outputs


def _same(one: Any, other: Any) -> bool:
    return bool(one.data_ptr() == other.data_ptr() and one.shape == other.shape)


#: events of one and the same tensor, by number
_Group = tuple[int, ...]


def _groups(log: _Log, before: Any, after: Any) -> list[_Group]:
    """The stations after one boundary, up to the other, each as the events that saw it."""
    import torch

    def equal(one: Any, other: Any) -> bool:
        return _same(one, other) or (one.shape == other.shape and torch.equal(one, other))

    seen = [event.tensor for event in log.events]
    end = next((k for k, tensor in enumerate(seen) if equal(tensor, after)), None)
    start = 0 if before is None else next((k for k, tensor in enumerate(seen) if equal(tensor, before)), None)
    if end is None or start is None or end < start:
        raise SourceUnavailable("E_REFERENCE", "no module gives the layer boundary", "see docs/parity.md")
    found: dict[int, list[int]] = {}
    for k in range(start, end + 1):
        # What does not come from the boundary (tables of distances, say) lies beside the layer, not in it.
        if before is not None and (equal(seen[k], before) or start not in log.events[k].needs):
            continue
        first = next((f for f in found if _same(seen[f], seen[k])), k)
        found.setdefault(first, []).append(k)
    return [tuple(events) for events in found.values()]


def _program() -> None:
    parser = argparse.ArgumentParser(prog="stations")
    for name in ("artifact", "inputs", "outputs"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("dtype", "device"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--boundary", type=int, required=True)
    chosen = parser.parse_args()
    cases = read_tensors(chosen.inputs)
    stock = EagerProgram(chosen.dtype)
    stock.open(chosen.artifact, chosen.device, cases.metadata)
    results, facts = answers(stock, cases.arrays, chosen.boundary)
    write_outputs(chosen.outputs, results, {"stations": json.dumps(facts)})


def answers(
    stock: EagerProgram, cases: Mapping[str, Mapping[str, Array]], boundary: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(tensors, what they are) of the stations before a boundary; the model is in float64 on the CPU afterwards."""
    smallest = min(cases.values(), key=lambda inputs: sum(array.size for array in inputs.values()))
    log, outputs = _run(stock, smallest)
    states = [outputs[f"hidden_states.{k}"].to(stock.device) for k in (boundary - 1, boundary) if k >= 0]
    groups = _groups(log, states[0] if len(states) > 1 else None, states[-1])
    kept = range(groups[0][0], groups[-1][-1] + 1)
    results = _values(stock, cases, groups, kept, "rounded")
    weights, norms = _modules(stock, [log.events[k] for k in kept])
    results |= {f"weights/{k}": weight.detach().clone() for k, weight in enumerate(weights.values())}
    stock.device = "cpu"
    stock.loaded.model.cpu().double()
    exact = _values(stock, cases, groups, kept, "exact")
    listed = _described(log, groups)
    return results | exact, {"stations": listed, "weights": list(weights), "norms": norms}


def _values(
    stock: EagerProgram, cases: Mapping[str, Mapping[str, Any]], groups: Sequence[_Group], kept: range, kind: str
) -> dict[str, Any]:
    found = {}
    for case, inputs in cases.items():
        log, _ = _run(stock, inputs, kept)
        for k, group in enumerate(groups):
            found[f"{case}/{kind}.{k}"] = log.events[group[0]].tensor.cpu()
    return found


def _modules(stock: EagerProgram, events: Sequence[_Event]) -> tuple[dict[str, Any], list[str]]:
    """(matrices by module, norms in the order of their calls), of the modules that were called."""
    found, norms = {}, []
    for event in events:
        if event.kind != GIVES or event.module.endswith(f".{SOFTMAX}"):
            continue
        module = stock.loaded.model.get_submodule(event.module)
        weight = getattr(module, "weight", None)
        if weight is not None and weight.ndim == 2:
            found[event.module] = weight
        elif "Norm" in type(module).__name__:
            norms.append(event.module)
    return found, norms


def _described(log: _Log, groups: Sequence[_Group]) -> list[dict[str, Any]]:
    """Name, module, places and needs of each station; the path to the layer itself is left out of names."""
    owner = {k: number for number, group in enumerate(groups) for k in group}
    events = [log.events[group[0]] for group in groups]
    paths = [event.module.split(".")[:-1] for event in events]
    common = 0
    while all(len(path) > common and path[common] == paths[0][common] for path in paths):
        common += 1

    def short(path: str) -> str:
        return ".".join(path.split(".")[common:])

    found = []
    for number, group in enumerate(groups):
        event = events[number]
        module = short(event.module)
        name = module
        if event.module.endswith(f".{SOFTMAX}"):
            module = short(event.module.removesuffix(f".{SOFTMAX}"))
            name = f"the softmax of {module}" if event.kind == GIVES else f"the scores of {module}"
        elif event.kind == TAKES:
            name = f"{_made_of(log, groups, number)} {module}"
        needs = {owner[k] for k in event.needs if k in owner} - {number}
        places = [(log.events[k].kind, log.events[k].module) for k in group]
        found.append({"name": name, "module": module, "places": places, "needs": sorted(needs)})
    return found


def _made_of(log: _Log, groups: Sequence[_Group], number: int) -> str:
    """How to say what a module takes: the sum of what the one before gave and something else, or no more than that."""
    import torch

    tensor = log.events[groups[number][0]].tensor
    before = log.events[groups[number - 1][0]].tensor if number else None
    if before is not None and before.shape == tensor.shape:
        rest = tensor - before
        others = [event.tensor for event in log.events if event.tensor.shape == rest.shape]
        if any(torch.allclose(rest, each, rtol=1e-4, atol=1e-5) for each in others):
            return "the residual before"
    return "what goes into"


if __name__ == "__main__":
    guarded(_program, "stations")
