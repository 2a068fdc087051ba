"""Runtime `onnxruntime`: ONNX Runtime at ORT_ENABLE_ALL, the level that users run.

The shipped file is what gives the outputs; the hidden states come from a second session over a copy in memory whose
recorded taps were added to its outputs. Providers are asserted: onnxruntime-gpu falls back to the CPU in silence.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertx.errors import LocalProblem
from bertx.runtimes import Runtime, absent, inside
from bertx.runtimes.protocol import Program, main

if TYPE_CHECKING:
    from bertx.runtimes.protocol import Array


#: types that inputs and outputs have, as numpy names them
_TYPES = {
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
}

#: how many constants the nodes of one layer read, at most
_CONSTANTS = 40


class OnnxRuntime(Runtime):
    name = "onnxruntime"
    reads = frozenset({"onnx"})
    distributions = ("onnxruntime-gpu", "onnxruntime")
    not_on_cpu = frozenset({"bfloat16"})
    looks_inside = True

    def missing(self) -> str | None:
        return absent("onnxruntime")


class OnnxRuntimeProgram(Program):
    """One session for the outputs, one for the taps."""

    runtime = "onnxruntime"

    def open(self, artifact: Path, device: str, metadata: Mapping[str, str]) -> None:
        self.device = device
        self.intra_op = int(metadata.get("threads") or os.cpu_count() or 1)
        self.session = _session(str(artifact), device, artifact.parent, self.intra_op)
        self.names = [output.name for output in self.session.get_outputs()]
        self.kinds = {value.name: _TYPES.get(value.type, value.type) for value in self.session.get_inputs()}
        taps = _taps(self.session)
        self.inside: inside.Inside | None = None
        self.weights: dict[str, Array] = {}
        more: dict[str, str] = {}
        if inside.KEY in metadata:
            graph = _graph(artifact)
            self.inside = _inside(graph, taps, metadata[inside.KEY])
            more = {**self.inside.values, **self.inside.constants}
            self.weights = _weights(graph, artifact.parent, more)
        asked = {name: tensor for name, tensor in {**taps, **more}.items() if name not in self.weights}
        self.tensors, self.tapped = _tapped(artifact, device, asked, self.session, self.intra_op)
        strange = {value.name for value in self.tapped.get_outputs() if value.type not in _TYPES}
        # numpy has no bfloat16, say: of the values inside, those that it has are looked at.
        self.tensors = {name: tensor for name, tensor in self.tensors.items() if name in taps or tensor not in strange}

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Any]:
        return dict(zip(self.names, self.session.run(None, self._fed(inputs)), strict=True))

    def taps(self, inputs: Mapping[str, Array]) -> Mapping[str, Any]:
        tensors = sorted(set(self.tensors.values()))
        values = dict(zip(tensors, self.tapped.run(tensors, self._fed(inputs)), strict=True)) if tensors else {}
        found = {tap: values[tensor] for tap, tensor in self.tensors.items()}
        known, self.weights = self.weights, {}  # the same in each case
        return found | {name: array for name, array in known.items() if array.ndim > 1}

    def _fed(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return {name: _cast(name, inputs[name], kind) for name, kind in self.kinds.items()}

    def facts(self) -> Mapping[str, str]:
        import onnxruntime

        provider = self.session.get_providers()[0]
        kinds = [_TYPES.get(output.type, "unknown") for output in self.session.get_outputs()]
        found = [kind for kind in kinds if kind.startswith("float")]
        return {
            "version": onnxruntime.__version__,
            "provider": provider,
            "device": self.device if provider.startswith("CUDA") else "cpu",
            "dtype": found[0] if found else "unknown",
            **({inside.KEY: self.inside.to_json()} if self.inside else {}),
        }

    def threads(self) -> int:
        return self.intra_op


def _session(model: str | bytes, device: str, folder: Path, threads: int) -> Any:
    """A session at the level that users run."""
    import onnxruntime

    if device != "cpu" and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    if isinstance(model, bytes):
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    wanted: list[Any] = ["CPUExecutionProvider"]
    if device != "cpu":
        # TF32 keeps ten bits of a float32's mantissa: not what is claimed.
        settings = {"device_id": device.partition(":")[2] or "0", "use_tf32": "0"}
        wanted.insert(0, ("CUDAExecutionProvider", settings))
    session = onnxruntime.InferenceSession(model, options, providers=wanted)
    if device != "cpu" and session.get_providers()[0] != "CUDAExecutionProvider":
        raise LocalProblem(
            "E_DEVICE", "ONNX Runtime could not load its CUDA provider", "install CUDA and cuDNN libraries"
        )
    session.disable_fallback()
    return session


def _cast(name: str, array: Array, wanted: str) -> Array:
    """An input in the size of number that the file takes; numbers of another kind would be another input."""
    import numpy as np

    kinds = {"i": "integer", "u": "integer", "f": "float", "b": "bool"}
    if wanted not in _TYPES.values() or kinds[array.dtype.kind] != kinds[np.dtype(wanted).kind]:
        raise TypeError(f"{name} takes {wanted} and is given {array.dtype}")
    return array.astype(wanted)


def _taps(session: Any) -> dict[str, str]:
    text = session.get_modelmeta().custom_metadata_map.get("bertx.taps")
    taps = json.loads(text) if text else {}
    return {str(tap): str(tensor) for tap, tensor in taps.items()} if isinstance(taps, dict) else {}


def _tapped(
    artifact: Path, device: str, taps: dict[str, str], shipped: Any, threads: int
) -> tuple[dict[str, str], Any]:
    """(taps that the graph still has, a session that gives them): a copy in memory with them as outputs.

    An optimizer may have fused a recorded tap away; that is no fault, the outputs are judged all the same.
    """
    import onnx

    if not taps:
        return {}, shipped
    model = onnx.load(str(artifact), load_external_data=False)
    outputs = {value.name for value in model.graph.output}
    known = outputs | {name for node in model.graph.node for name in node.output}
    kept = {tap: tensor for tap, tensor in taps.items() if tensor in known}
    added = sorted({tensor for tensor in kept.values() if tensor not in outputs})
    if not added:
        return kept, shipped
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in added)
    return kept, _session(model.SerializeToString(), device, artifact.parent, threads)


def _graph(artifact: Path) -> Any:
    import onnx

    return onnx.load(str(artifact), load_external_data=False).graph


def _inside(graph: Any, taps: Mapping[str, str], wanted: str) -> inside.Inside:
    """What lies between two recorded taps, or after a value, read off the graph."""
    nodes = [inside.Node(node.op_type, tuple(node.input), tuple(node.output)) for node in graph.node]
    fixed = {each.name for each in graph.initializer}
    fed = {each.name for each in graph.input} - fixed
    if not wanted.startswith(inside.FROM):
        start = taps.get(f"hidden_states.{int(wanted) - 1}")
        return inside.between(nodes, fed, start, [taps[f"hidden_states.{wanted}"]], fixed)
    start = wanted.removeprefix(inside.FROM)
    found = inside.between(nodes, fed, start or None, [each.name for each in graph.output], fixed)
    # Of the weights behind a value, those of the layer that begins there; from the inputs on they would be all.
    near = list(found.constants.values())[: _CONSTANTS if start else 0]
    return found.only({*near, *found.values.values()})


def _weights(graph: Any, folder: Path, wanted: Mapping[str, str]) -> dict[str, Array]:
    """Those of some values that are the graph's own constants; external data lies in `folder`."""
    from onnx import numpy_helper

    held = {each.name: each for each in graph.initializer}
    found = {name: held[tensor] for name, tensor in wanted.items() if tensor in held}
    return {name: numpy_helper.to_array(each, base_dir=str(folder)) for name, each in found.items()}


RUNTIME = OnnxRuntime()

if __name__ == "__main__":
    main(OnnxRuntimeProgram())
