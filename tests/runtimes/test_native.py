"""Every runtime in another language computes a real model rightly, and fails what a wrong program would give.

They are tested where they are built (`make native`): in the user's cache, which these tests share with the user.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from bertx.cli.options import cache_folder
from bertx.runtimes import Job, registry
from bertx.runtimes.native import Native
from bertx.runtimes.process import Limits, run
from bertx.runtimes.protocol import read_tensors, write_cases
from bertx.signature import Signature, TensorSpec
from cli.documents import checked
from families import make, make_class
from program import Ran, gone, ready_or_skip, wait_until

NATIVE = [each.at(cache_folder()) for each in registry().values() if isinstance(each, Native)]
FED = Path(__file__).with_name("fed_runner.py")
FAULTS = ("mask-ignored", "inputs-swapped")
NAMES = ("input_ids", "attention_mask", "token_type_ids")
#: runtimes that compute with one thread, whatever they are told
ONE_THREAD = ("tract", "onnxruntime-web")

#: the tiny BERT in every format
RECIPE = """
checkpoint = {source!r}
artifacts = ["safetensors", "torchscript", "onnx"]
runtimes = ["eager", "torchscript", "onnxruntime"]
"""


@pytest.fixture(params=NATIVE, ids=lambda runtime: runtime.name)
def native(request: pytest.FixtureRequest) -> Native:
    """Each native runtime that is built; the others are skipped with what they lack."""
    found: Native = ready_or_skip(request.param)
    return found


def ready() -> list[Native]:
    return [runtime for runtime in NATIVE if runtime.missing() is None]


@pytest.fixture(scope="session")
def results(bertx: Callable[..., Ran], minilm_bundle: Path, built: dict[str, str]) -> Mapping[str, Any]:
    """What `bertx verify` finds of all-MiniLM-L6-v2 in every native runtime that is built, by runtime."""
    return _verified(bertx("verify", minilm_bundle, "--json", *_named(), **built))


@pytest.fixture(scope="session")
def timed(bertx: Callable[..., Ran], tiny_bundle: Path, built: dict[str, str]) -> Mapping[str, Any]:
    """The same of a tiny model, with latencies."""
    return _verified(bertx("verify", tiny_bundle, "--latency", "--json", *_named(), **built))


@pytest.fixture(scope="session")
def tiny_bundle(bertx: Callable[..., Ran], tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-bundle")
    (folder / "tiny.toml").write_text(RECIPE.format(source=str(tiny)), "utf-8")
    ran = bertx("run", folder / "tiny.toml", "-o", folder / "bundle")
    assert ran.code == 0, ran.err
    return folder / "bundle"


@pytest.fixture(scope="session")
def faults(bertx: Callable[..., Ran], tiny_bundle: Path, built: dict[str, str]) -> Mapping[tuple[str, str], str]:
    """(runtime, fault) -> the verdict on what it computes when it is fed so."""
    found = {}
    for fault in FAULTS:
        for form in sorted({name for runtime in ready() for name in runtime.reads}):
            chosen = [runtime for runtime in ready() if form in runtime.reads]
            fed = {
                runtime.name: shlex.join([sys.executable, str(FED), fault, *_program(runtime)]) for runtime in chosen
            }
            words = [word for line in fed.values() for word in ("--runner", f"{form}={line}")]
            ran = bertx("verify", _artifact(tiny_bundle, form), "--json", "--runtime", _own(form), *words, **built)
            tried = [each for each in ran.json["results"] if each["runtime"] not in (_own(form), "none")]
            assert len(tried) == len(fed)
            found |= {(name, fault): each for name, each in zip(fed, tried, strict=True)}
    return found


def _named() -> list[str]:
    return [word for runtime in ready() for word in ("--runtime", runtime.name)]


def _verified(ran: Ran) -> Mapping[str, Any]:
    assert ran.out, ran.err
    return {each["runtime"]: each for each in checked(ran.json)["results"] if each["runtime"] != "none"}


def _program(runtime: Native) -> list[str]:
    return runtime.program(runtime.product)


def _own(form: str) -> str:
    """The runtime in Python that reads a format."""
    return next(name for name, each in registry().items() if form in each.reads)


def _artifact(bundle: Path, form: str) -> Path:
    names = {"safetensors": "model.safetensors", "torchscript": "torchscript/model.pt", "onnx": "onnx/model.onnx"}
    return bundle / names[form]


@pytest.mark.skipif(not os.environ.get("CI"), reason="only where all that can be built is built before: in CI")
@pytest.mark.parametrize("runtime", NATIVE, ids=lambda runtime: runtime.name)
def test_what_can_be_built_here_is_built(runtime: Native) -> None:
    if runtime.unbuildable():
        pytest.skip(f"{runtime.name} cannot be built here: {runtime.unbuildable()}")
    assert runtime.missing() is None


def test_a_real_model_passes(native: Native, results: Mapping[str, Any]) -> None:
    result = results[native.name]
    assert (result["verdict"], result["reason"], result["cause"]) == ("pass", None, None)
    for row in (*result["outputs"], *result["taps"]):
        assert row["rms_ratio"] is None or row["rms_ratio"] <= 3


def test_a_runner_that_takes_texts_is_judged_from_the_text_on(native: Native, results: Mapping[str, Any]) -> None:
    rows = {row["name"]: row for row in results[native.name]["outputs"]}
    assert ("texts" in rows) == native.takes_texts
    if native.takes_texts:
        assert rows["texts"]["compared"] > 500
        assert rows["texts.sentence_embedding"]["compared"] > 384 * 50


def test_a_runner_tells_what_computed_and_how_long_it_took(native: Native, timed: Mapping[str, Any]) -> None:
    result = timed[native.name]
    assert any(version in result["runtime_version"] for version in native.versions().values())
    assert (result["device"], bool(result["provider"])) == ("cpu", True)
    assert list(result["latency"]["milliseconds"]) == ["1x16"]  # its longest text has 40 tokens
    assert result["latency"]["rounds"] == 7


def test_a_folder_may_have_a_name_that_no_repository_has(
    bertx: Callable[..., Ran], tiny_bundle: Path, built: dict[str, str], tmp_path: Path
) -> None:
    """As that of a bundle has while it is written: an export is verified before it is published."""
    if not ready():
        pytest.skip("no native runtime is ready")
    folder = shutil.copytree(tiny_bundle, tmp_path / ".two--dashes and 空白")
    found = _verified(bertx("verify", folder, "--json", *_named(), **built))
    assert {each: found[each]["reason"] for each in found} == dict.fromkeys(runtime.name for runtime in ready())


def test_it_computes_with_the_threads_that_it_is_told_or_says_that_it_has_one(
    native: Native, tiny_bundle: Path, tmp_path: Path
) -> None:
    import numpy as np

    (form,) = native.reads
    job = Job(_artifact(tiny_bundle, form), tmp_path / "cases", tmp_path / "out", "cpu")
    case = {name: np.ones((1, 3), dtype=np.int64) for name in NAMES}
    specs = tuple(TensorSpec(name, "int64", ("batch", "sequence")) for name in NAMES)
    outputs = (TensorSpec("last_hidden_state", "float32", ()),)
    # Three: as many as no runtime takes by itself here, where tests have two or four processors.
    write_cases(job.inputs, {"one": case}, Signature(specs, outputs), "feature-extraction", "float32", {"threads": "3"})
    assert run(native.command(job), Limits(60)).reason is None
    assert read_tensors(job.outputs).metadata["threads"] == ("1" if native.name in ONE_THREAD else "3")


@pytest.mark.parametrize("fault", FAULTS)
def test_wrongly_fed_it_fails(native: Native, fault: str, faults: Mapping[tuple[str, str], Any]) -> None:
    """So a right answer means that the program feeds the model as it must."""
    result = faults[native.name, fault]
    assert result["verdict"] == "fail"
    assert result["outputs"], result["reason"]  # it ran; its numbers are what is wrong


@pytest.fixture(scope="session")
def half(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny BERT in float16, in every format, as files that claim nothing."""
    import onnx
    import torch
    from onnx import TensorProto, helper
    from safetensors.torch import save_file
    from transformers import BertModel

    folder = tmp_path_factory.mktemp("half")
    model = BertModel.from_pretrained(tiny).half().eval()
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_bytes((tiny / "config.json").read_bytes())
    (folder / "torchscript").mkdir()
    (folder / "onnx").mkdir()

    class Halved(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = torch.nn.Embedding(60, 32).half()

        def forward(self, input_ids, attention_mask, token_type_ids):
            return self.words(input_ids) + (attention_mask + token_type_ids).unsqueeze(-1).half()

    ids = torch.ones(1, 3, dtype=torch.long)
    torch.jit.trace(Halved().eval(), (ids, ids, ids)).save(str(folder / "torchscript" / "model.pt"))
    names = ["input_ids", "attention_mask", "token_type_ids"]
    shape = ["batch", "sequence"]
    graph = helper.make_graph(
        [
            helper.make_node("Add", names[:2], ["sum"]),
            helper.make_node("Add", ["sum", names[2]], ["total"]),
            helper.make_node("Cast", ["total"], ["flat"], to=TensorProto.FLOAT16),
            helper.make_node("Unsqueeze", ["flat", "axes"], ["last_hidden_state"]),
        ],
        "half",
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in names],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT16, [*shape, 1])],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [-1])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(made, folder / "onnx" / "model.onnx")
    return folder


def test_a_file_of_another_dtype_is_refused_with_a_word_about_it(native: Native, half: Path, tmp_path: Path) -> None:
    import numpy as np

    (form,) = native.reads
    specs = tuple(TensorSpec(name, "int64", ("batch", "sequence")) for name in NAMES)
    signature = Signature(specs, (TensorSpec("last_hidden_state", "float32", ()),))
    job = Job(_artifact(half, form), tmp_path / "cases", tmp_path / "out", "cpu")
    case = {name: np.ones((1, 3), dtype=np.int64) for name in NAMES}
    write_cases(job.inputs, {"one": case}, signature, "feature-extraction", "float32")
    ended = run(native.command(job), Limits(60))
    assert "float16 where float32 is claimed" in (ended.reason or "")
    assert not job.outputs.exists()


def test_a_file_that_is_no_model_ends_with_one_line(native: Native, tiny_bundle: Path, tmp_path: Path) -> None:
    (form,) = native.reads
    nonsense = tmp_path / _artifact(tmp_path, form).name
    nonsense.write_bytes(b"no model")
    (tmp_path / "config.json").write_bytes((tiny_bundle / "config.json").read_bytes())
    job = Job(nonsense, tiny_bundle / "parity" / "cases.safetensors", tmp_path / "out", "cpu")
    ended = run(native.command(job), Limits(60))
    assert re.match(r"exit \d+: ", ended.reason or "")
    assert not job.outputs.exists()


#: bertx, with a runner whose command line follows
KILLED = "import sys; from bertx.runtimes.process import Limits, run; run(sys.argv[1:], Limits())"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no groups of processes")
def test_it_ends_when_bertx_is_killed(native: Native, tiny_bundle: Path, tmp_path: Path) -> None:
    (form,) = native.reads
    cases = tmp_path / "cases.safetensors"
    os.mkfifo(cases)  # it waits for what nobody writes
    job = Job(_artifact(tiny_bundle, form), cases, tmp_path / "out", "cpu")
    bertx = subprocess.Popen([sys.executable, "-c", KILLED, *native.command(job)])
    writers: list[int] = []
    wait_until(lambda: _opened(cases, writers))
    started = [each.pid for each in psutil.Process(bertx.pid).children(recursive=True)]
    assert started
    bertx.kill()
    bertx.wait()
    wait_until(lambda: all(map(gone, started)))
    os.close(*writers)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
@pytest.mark.parametrize("java", [each for each in NATIVE if each.language == "java"], ids=lambda each: each.name)
def test_a_crash_of_java_leaves_nothing_in_the_current_folder(java: Native, tiny_bundle: Path, tmp_path: Path) -> None:
    native = ready_or_skip(java)
    (form,) = native.reads
    cases, here = tmp_path / "cases.safetensors", tmp_path / "here"
    os.mkfifo(cases)
    here.mkdir()
    job = Job(_artifact(tiny_bundle, form), cases, tmp_path / "out", "cpu")
    runner = subprocess.Popen(native.command(job), cwd=here, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    writers: list[int] = []
    wait_until(lambda: _opened(cases, writers))
    runner.send_signal(signal.SIGSEGV)
    assert runner.wait(60) != 0
    assert list(here.iterdir()) == []
    os.close(*writers)


def _opened(cases: Path, writers: list[int]) -> bool:
    """Opens a pipe to write, as soon as somebody reads it."""
    with contextlib.suppress(OSError):
        writers.append(os.open(cases, os.O_WRONLY | os.O_NONBLOCK))
    return bool(writers)


def test_cuda_is_refused_where_the_program_has_none(native: Native, tiny_bundle: Path, tmp_path: Path) -> None:
    if "cuda" in native.devices:
        pytest.skip(f"{native.name} knows CUDA")
    (form,) = native.reads
    cases = tiny_bundle / "parity" / "cases.safetensors"
    ended = run(native.command(Job(_artifact(tiny_bundle, form), cases, tmp_path / "out", "cuda")), Limits(60))
    assert ended.exit_code == 5
    assert (ended.reason or "").startswith("exit 5: E_DEVICE: ")


def test_a_head_that_labels_tokens_passes(bertx: Callable[..., Ran], built: dict[str, str], tmp_path: Path) -> None:
    of_weights = [runtime for runtime in ready() if "safetensors" in runtime.reads]
    if not of_weights:
        pytest.skip("no program that reads weights is ready: bertx build candle tch-varstore")
    folder = make_class("BertForTokenClassification", tmp_path / "model")
    named = [word for runtime in of_weights for word in ("--runtime", runtime.name)]
    found = _verified(bertx("verify", folder / "model.safetensors", "--against", folder, "--json", *named, **built))
    for runtime in of_weights:
        result = found[runtime.name]
        assert (result["verdict"], result["reason"], result["cause"]) == ("pass", None, None)
        assert result["outputs"][0]["name"] == "logits"


def test_a_family_or_task_that_a_program_does_not_know_is_not_run_and_says_why(tmp_path: Path) -> None:
    refusing = [runtime for runtime in NATIVE if "safetensors" in runtime.reads]
    for runtime in refusing:
        (tmp_path / "config.json").write_text('{"model_type": "roberta"}')
        assert "roberta" in (runtime.refuses(tmp_path / "model.safetensors", "feature-extraction") or "")
        (tmp_path / "config.json").write_text('{"model_type": "bert"}')
        assert "fill-mask" in (runtime.refuses(tmp_path / "model.safetensors", "fill-mask") or "")
        assert runtime.refuses(tmp_path / "model.safetensors", "feature-extraction") is None


@pytest.mark.parametrize("name", ["rten", "tract"])
def test_operators_that_onnx_runtime_adds_are_not_run_where_they_are_not_known(name: str, tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(each, TensorProto.FLOAT, ["batch", 4]) for each in ("x", "y")]
    for domain in ("", "com.microsoft"):
        node = helper.make_node("Gelu", ["x"], ["y"], domain=domain)
        imports = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
        graph = helper.make_graph([node], "gelu", values[:1], values[1:])
        onnx.save(helper.make_model(graph, opset_imports=imports), tmp_path / "model.onnx")
        refused = registry()[name].refuses(tmp_path / "model.onnx", "feature-extraction")
        assert ("com.microsoft" in (refused or "")) == bool(domain)
    (tmp_path / "model.onnx").write_bytes(b"no model")
    assert registry()[name].refuses(tmp_path / "model.onnx", "feature-extraction") is None  # which its runner fails


def test_segments_that_a_tokenizer_does_not_give_are_no_fault_of_the_file(
    bertx: Callable[..., Ran], built: dict[str, str], tmp_path: Path
) -> None:
    if not any(runtime.name == "transformers-js" for runtime in ready()):
        pytest.skip("transformers.js is not ready: bertx build transformers-js")
    folder = make("electra", tmp_path / "model")
    ran = bertx("to-onnx", folder, "-o", tmp_path / "bundle", "--json", **built)
    assert ran.code == 0, ran.err
    found = {each["runtime"]: each["verdict"] for each in ran.json["report"]["results"]}
    assert found["transformers-js"] == "pass"
