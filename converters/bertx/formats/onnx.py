"""ONNX: captured by torch.export, dynamic batch and sequence, taps named inside the graph.

The hidden states are exported as outputs, then taken from the list of outputs again: their values keep the names
`hidden_states.<k>` inside the graph, so a checker can read them and the shipped file does not compute anything twice.
"""

from __future__ import annotations

import io
import json
import re
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import bertx
from bertx.checkpoint import Checkpoint
from bertx.errors import InputRefused, LocalProblem, escape
from bertx.formats import Contents, ExportOptions, Format, Written, artifact_name
from bertx.model.tasks import HIDDEN_STATES, Task
from bertx.model.wrapper import Source, default_outputs, wrap
from bertx.onnx_header import read_onnx_header

#: keys of the model's metadata
SIGNATURE, TAPS, TASK = "bertx.signature", "bertx.taps", "bertx.task"
#: protobuf cannot hold more, and readers fail earlier; above this weights lie beside the graph
_EMBEDDED = 2_000_000_000


class Onnx(Format):
    name = "onnx"
    suffixes = (".onnx",)

    def file_name(self, options: ExportOptions) -> str:
        return artifact_name("onnx", ".onnx", options)

    def write(self, checkpoint: Checkpoint, task: Task, options: ExportOptions, path: Path) -> Written:
        import transformers

        outputs = _expand(options.output_names, checkpoint) or default_outputs(checkpoint, task)
        source = wrap(checkpoint, task, options.dtype or "float32", outputs, fused=False)
        written = self.write_module(source, options, path)
        return replace(written, versions={**written.versions, "transformers": transformers.__version__})

    def write_module(self, source: Source, options: ExportOptions, path: Path) -> Written:
        import onnx
        import torch

        model = _capture(source, options)
        _separate(model)
        _check_moving(model, source)
        taps = _hide_taps(model, source)
        _describe(model, source, taps)
        size = sum(value.const_value.nbytes for value in model.graph.initializers.values())
        external = size > _EMBEDDED if options.external_data is None else options.external_data
        _save(model, path, external)
        onnx.checker.check_model(str(path), full_check=not external)
        versions = {"torch": torch.__version__, "onnx": onnx.__version__}
        recorded = {"opset": options.opset, "external_data": external}
        return Written(source.dtype, source.signature, taps, recorded, versions, source.head)

    def contents(self, path: Path) -> Contents:
        header = read_onnx_header(path)
        facts = {"opset": dict(header.opsets), "nodes": header.nodes, "producer": header.producer}
        outputs = header.signature.outputs
        floats = [spec.dtype for spec in outputs if spec.dtype in ("float32", "float16", "bfloat16", "float64")]
        return Contents(floats[0] if floats else None, header.signature, header.metadata.get(TASK), facts)


def _expand(names: tuple[str, ...], checkpoint: Checkpoint) -> tuple[str, ...]:
    """hidden_states stands for one output each in ONNX."""
    layers = int(checkpoint.config.values.get("num_hidden_layers", checkpoint.config.values.get("n_layers", 0)))
    stacked = tuple(f"{HIDDEN_STATES}.{k}" for k in range(layers + 1))
    return tuple(each for name in names for each in (stacked if name == HIDDEN_STATES else (name,)))


def _capture(source: Source, options: ExportOptions) -> Any:
    """The onnx_ir model of the wrapped module, hidden states among its outputs."""
    import torch

    module = source.module
    if not source.plain:
        module.forward = module.with_taps
    states = [f"{HIDDEN_STATES}.{k}" for k in range(source.layers)]
    _silence()
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                tuple(source.samples.values()),
                None,
                input_names=[spec.name for spec in source.signature.inputs],
                output_names=[spec.name for spec in source.signature.outputs] + [f"tap.{name}" for name in states],
                dynamic_shapes=_moving(source),
                opset_version=options.opset,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:
        raise InputRefused(
            "E_EXPORT", f"torch.onnx cannot export it: {escape(_first_line(error))}", "try trace"
        ) from error
    if program is None:
        raise InputRefused("E_EXPORT", "torch.onnx gave no program", "try trace")
    model = program.model
    if model.opset_imports.get("") != options.opset:
        raise InputRefused(
            "E_EXPORT", f"this model cannot be written at opset {options.opset}", "choose a higher --opset"
        )
    return model


def _moving(source: Source) -> Any:
    """The axes that move, as torch.export wants them: by name; in one tuple for a module that takes any inputs.

    A plain module may allow some sizes only (a multiple of four, say), which a Dim would refuse and a name does not.
    """
    import torch

    def axis(symbol: str) -> Any:
        return symbol if source.plain else torch.export.Dim(symbol)

    symbols = {size for spec in source.signature.inputs for size in spec.shape if isinstance(size, str)}
    sizes = {symbol: axis(symbol) for symbol in symbols}
    moving = {
        spec.name: {k: sizes[size] for k, size in enumerate(spec.shape) if isinstance(size, str)}
        for spec in source.signature.inputs
    }
    return (tuple(moving.values()),) if source.plain else moving


def _check_moving(model: Any, source: Source) -> None:
    """Refuses a graph that fixed an axis which is to move."""
    for value, spec in zip(model.graph.inputs, source.signature.inputs, strict=True):
        for size, symbol in zip(value.shape, spec.shape, strict=True):
            if isinstance(symbol, str) and isinstance(size, int):
                what = f"torch.onnx fixes {symbol} of {spec.name} at {size}"
                raise InputRefused("E_EXPORT", what, "the module branches on it: compute with it, or leave it fixed")


def _separate(model: Any) -> None:
    """Renames values inside the graph that have the name of an input or output: the exporter does not look."""
    graph = model.graph
    ends = {value.name: value for value in (*graph.inputs, *graph.outputs)}
    for node in graph.all_nodes():
        for value in node.outputs:
            if value.name in ends and ends[value.name] is not value:
                value.name = f"{value.name}.inside"


def _silence() -> None:
    """The exporter logs that torchvision's operators are missing; nothing here needs them."""
    import logging

    for name in ("torch.onnx", "torch.onnx._internal.exporter._registration", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _first_line(error: BaseException) -> str:
    """What the exporter really stumbled over: the innermost cause, in one line without terminal colours."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _hide_taps(model: Any, source: Source) -> dict[str, str]:
    """Takes the hidden states from the outputs; {tap name: name of the value inside the graph}."""
    graph = model.graph
    taps: dict[str, str] = {}
    states = graph.outputs[len(source.signature.outputs) :]
    del graph.outputs[len(source.signature.outputs) :]
    for k, value in enumerate(states):
        producer = value.producer()
        if producer is not None and producer.op_type == "Identity" and not value.uses():
            value = producer.inputs[0]
            graph.remove(producer, safe=True)
        name = f"{HIDDEN_STATES}.{k}"
        # A state that is an output keeps the output's name.
        if all(value is not output for output in graph.outputs):
            value.name = name
        taps[name] = value.name
    return taps


def _describe(model: Any, source: Source, taps: dict[str, str]) -> None:
    """Keeps the signature inside the file, and drops what the exporter noted of this machine's source paths."""
    model.producer_name, model.producer_version = "bertx", bertx.__version__
    model.metadata_props.clear()
    model.metadata_props[SIGNATURE] = json.dumps(source.signature.to_json())
    model.metadata_props[TAPS] = json.dumps(taps)
    model.metadata_props[TASK] = source.task.name
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


def _save(model: Any, path: Path, external: bool) -> None:
    import onnx_ir

    onnx_ir.save(model, path, external_data=f"{path.name}_data" if external else None)
    if not path.is_file():
        raise LocalProblem("E_DISK", f"{escape(path.name)} was not written", "check the disk")


FORMAT = Onnx()
