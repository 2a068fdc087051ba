"""The MeCab contract in Rust: the real library gives the ids of Python, whose tokenizer gives those of transformers.

tests/tokenizer/test_mecab.py holds Python's half against transformers on the same lines.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertx.cli.options import cache_folder
from bertx.runtimes import Job, Reading, registry
from bertx.runtimes.native import Native
from bertx.runtimes.protocol import read_tensors, write_cases
from bertx.signature import Signature, TensorSpec
from bertx.tokenizer import contract_in, mecab, open_tokenizer, text_of
from bertx.tokenizer.settings import CONTRACT, GOLDEN, TOKENIZER, read
from cli.documents import checked
from japanese import FromHub
from program import Ran, ready_or_skip
from tokenizer.folders import japanese_folder
from tokenizer.lines import lines

#: programs in Rust share what makes ids of texts: one of them, on a file that gives its ids back
TEXTS = [each.at(cache_folder()) for each in registry().values() if isinstance(each, Native) and each.takes_texts]
RUST = [each for each in TEXTS if each.language == "rust"]
#: a runner that is given another tokenizer.json, and the contract beside it, than the bundle's
RETOLD = Path(__file__).with_name("retold_runner.py")
LOWER = {"do_lower_case": True, "never_split": ["XYZ"]}
CHARACTERS = {"subword_tokenizer_type": "character"}
LONGEST = 512
BATCH = 64
#: every character of this Python's Unicode; those that it does not know yet may be something else to Rust
KNOWN = [c for c in map(chr, range(1, sys.maxunicode + 1)) if unicodedata.category(c) not in ("Cn", "Co", "Cs")]
#: a character beside others: a Σ is another letter at the end of a word, and marks move and compose
FORMS = ("{}", "ΑΣ{}", "Α{}Σ", "{}Σ", "Α{}ΣΒ", "e{}\u0301", "e\u0323{}")


@dataclass(frozen=True)
class Ended:
    """How a runner ended: its exit code, what it said, and the ids that it made."""

    code: int
    said: str
    ids: list[list[int]]


@pytest.fixture(scope="session")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file whose output is its ids."""
    import onnx
    from onnx import TensorProto, helper

    axes = ["batch", "sequence"]
    values = [
        helper.make_tensor_value_info(name, kind, axes)
        for name, kind in (
            ("input_ids", TensorProto.INT64),
            ("attention_mask", TensorProto.INT64),
            ("logits", TensorProto.FLOAT),
        )
    ]
    nodes = [
        helper.make_node("Mul", ["input_ids", "attention_mask"], ["kept"]),
        helper.make_node("Cast", ["kept"], ["logits"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(nodes, "identity", values[:2], values[2:])
    path = tmp_path_factory.mktemp("identity") / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def chosen() -> Native:
    """The first program in Rust that reads ONNX and is built; skips the test where there is none."""
    reading = [each for each in RUST if "onnx" in each.reads]
    found: Native = ready_or_skip(next((each for each in reading if not each.missing()), reading[0]))
    return found


@pytest.fixture
def ask(identity: Path, tmp_path: Path) -> Callable[..., Ended]:
    """(folder of a bundle, texts, other places) -> the ids that a runner in Rust makes of the texts."""
    runtime = chosen()

    def run(folder: Path, texts: Sequence[str], **places: Path | None) -> Ended:
        contract = mecab.read_contract(folder) if not places else None
        found = mecab.place(contract) if contract else (places.get("dictionary"), places.get("mecab"))
        job = Job(identity, tmp_path / "in", tmp_path / "out", "cpu", Reading(folder / TOKENIZER, *found))
        specs = tuple(TensorSpec(name, "int64", ("batch", "sequence")) for name in ("input_ids", "attention_mask"))
        signature = Signature(specs, (TensorSpec("logits", "float32", ("batch", "sequence")),))
        batches = {f"{k:06}": list(texts[k : k + BATCH]) for k in range(0, len(texts), BATCH)}
        blank = {
            name: {spec.name: np.zeros((len(rows), 1), np.int64) for spec in specs} for name, rows in batches.items()
        }
        more = {"texts": json.dumps(batches), "longest": str(LONGEST)}
        write_cases(job.inputs, blank, signature, "feature-extraction", "float32", more)
        ended = subprocess.run(runtime.command(job), capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if ended.returncode:
            return Ended(ended.returncode, ended.stderr, [])
        made = read_tensors(job.outputs).arrays
        ids = [
            row[mask == 1].tolist()
            for name in batches
            for row, mask in zip(made[name]["input_ids"], made[name]["attention_mask"], strict=True)
        ]
        return Ended(0, ended.stderr, ids)

    return run


def shipped(folder: Path) -> Path:
    """The folder with the files that a bundle ships of its tokenizer."""
    settings = read(folder)
    contract = contract_in(settings)
    assert contract is not None
    text = text_of(settings, contract)
    (folder / CONTRACT).write_text(json.dumps(contract.to_json()), "utf-8")
    (folder / TOKENIZER).write_text(text, "utf-8")
    return folder


def wanted(folder: Path, texts: Sequence[str]) -> list[list[int]]:
    tokenizer = open_tokenizer(folder)
    assert tokenizer is not None
    return replace(tokenizer, longest=LONGEST).encode(texts)


@pytest.mark.parametrize("more", [{}, LOWER, CHARACTERS, {**LOWER, **CHARACTERS}, {"mecab_kwargs": None}], ids=str)
@pytest.mark.parametrize("dictionary", ["unidic_lite", "ipadic"])
def test_every_line_has_the_ids_of_python(
    dictionary: str, more: dict[str, Any], ask: Callable[..., Ended], tmp_path: Path
) -> None:
    if "mecab_kwargs" in more:
        more = {"mecab_kwargs": {"mecab_dic": dictionary, "normalize_text": False}}
    folder = shipped(japanese_folder(tmp_path / "folder", dictionary, **more))
    words = [word for word in (folder / "vocab.txt").read_text("utf-8").split("\n") if word and word[0] != "["]
    texts = ["".join(c for c in line if unicodedata.category(c) != "Cn") for line in lines(2000, words)]
    ended = ask(folder, texts)
    assert (ended.code, ended.said) == (0, "")
    found = zip(texts, ended.ids, wanted(folder, texts), strict=True)
    assert [(text, ours, theirs) for text, ours, theirs in found if ours != theirs] == []


def test_the_golden_tokens_of_a_bundle_are_given(from_hub: FromHub, ask: Callable[..., Ended]) -> None:
    written = (from_hub.bundle / GOLDEN).read_text("utf-8").split("\n")[:-1]
    golden = [each for each in map(json.loads, written) if "pair" not in each]
    assert len(golden) > 40
    assert ask(from_hub.bundle, [each["text"] for each in golden]).ids == [each["ids"] for each in golden]


#: what is changed in a contract
CONTRACTS: dict[str, dict[str, Any]] = {
    "lower-cased": {"lower_case": True},
    "not-normalised": {"normalization": None},
    "special-tokens-split": {"special_tokens": ["[UNK]"]},
}


@pytest.fixture(scope="module")
def verified(
    from_hub: FromHub, bertx: Callable[..., Ran], built: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Of a Japanese file: the results of all that take texts, by name, and in Rust with other contracts, by change."""
    runtime = chosen()
    artifact = from_hub.bundle / "onnx" / "model.onnx"
    ready = [each.name for each in TEXTS if "onnx" in each.reads and not each.missing()]
    words = [word for name in ready for word in ("--runtime", name)]
    for change, values in CONTRACTS.items():
        folder = tmp_path_factory.mktemp("contract") / change
        folder.mkdir()
        shutil.copyfile(from_hub.bundle / TOKENIZER, folder / TOKENIZER)
        contract = json.loads((from_hub.bundle / CONTRACT).read_text("utf-8"))
        (folder / CONTRACT).write_text(json.dumps({**contract, **values}), "utf-8")
        command = [sys.executable, str(RETOLD), str(folder / TOKENIZER), *runtime.program(runtime.product)]
        words += ["--runner", f"onnx,texts={shlex.join(command)}"]
    ran = bertx("verify", artifact, *words, "--offline", "--json", **from_hub.environment, **built)
    results = checked(ran.json)["results"]
    return dict(zip([*ready, *CONTRACTS], results, strict=True))


@pytest.mark.parametrize("runtime", [each for each in TEXTS if "onnx" in each.reads], ids=lambda each: each.name)
def test_japanese_texts_are_judged_where_mecab_is_and_nowhere_else_in_silence(
    runtime: Native, verified: dict[str, Any]
) -> None:
    ready_or_skip(runtime)
    result = verified[runtime.name]
    assert (result["verdict"], result["cause"]) == ("pass", None)
    rows = {row["name"]: row for row in result["outputs"]}
    if runtime.takes_japanese:
        assert result["unjudged"] == []
        assert rows["texts"]["compared"] > 500
        assert rows["texts.last_hidden_state"]["rms_ratio"] <= 3
    else:
        why = f"{runtime.name} does not do the MeCab contract that tokenizer.json is made for"
        assert result["unjudged"] == [f"texts ({why})"]
        assert [name for name in rows if name.startswith("texts")] == []


@pytest.mark.parametrize("change", CONTRACTS)
def test_another_contract_than_the_bundles_fails(change: str, verified: dict[str, Any]) -> None:
    result = verified[change]
    assert result["verdict"] == "fail"
    assert result["cause"].startswith("texts: the runner's tokenizer reads a text otherwise: “")
    assert [row["name"] for row in result["outputs"] if row["problem"]] == ["texts"]


def test_a_contract_that_was_changed_fails_though_the_runner_obeys_it(
    from_hub: FromHub, bertx: Callable[..., Ran], built: dict[str, str], tmp_path: Path
) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(from_hub.bundle, changed)
    contract = json.loads((changed / CONTRACT).read_text("utf-8"))
    (changed / CONTRACT).write_text(json.dumps({**contract, **CONTRACTS["lower-cased"]}), "utf-8")
    artifact = changed / "onnx" / "model.onnx"
    ran = bertx("verify", artifact, "--runtime", chosen().name, "--offline", "--json", **from_hub.environment, **built)
    (result,) = ran.json["results"]
    assert (ran.code, result["verdict"]) == (1, "fail")
    assert "tokenizer: “" in result["cause"]
    assert "mecab_contract.json is not the file that bertx.json lists" in result["cause"]


def test_rust_normalises_and_lowers_every_character_as_python_does(ask: Callable[..., Ended], tmp_path: Path) -> None:
    """A vocabulary that has every character tells each from each."""
    folder = shipped(spelled(japanese_folder(tmp_path / "folder", "ipadic", **LOWER, **CHARACTERS)))
    moving = [c for c in KNOWN if unicodedata.normalize("NFKC", c) != c or c.lower() != c or c.upper() != c]
    marks = [c for c in KNOWN if unicodedata.category(c) in ("Mn", "Mc", "Me", "Cf", "Lm", "Sk")]
    forms = [form.format(c) for c in dict.fromkeys(moving + marks) for form in FORMS]
    texts = [*chunks(KNOWN, "", 200), *chunks(forms, " ", 30)]
    found = zip(texts, ask(folder, texts).ids, wanted(folder, texts), strict=True)
    assert [(text, ours, theirs) for text, ours, theirs in found if ours != theirs] == []


def test_rust_knows_characters_that_are_newer_than_pythons_unicode(ask: Callable[..., Ended], tmp_path: Path) -> None:
    """The one difference there is, and two versions of Python have it, too: a letter of Unicode 16 as a plain one."""
    folder = shipped(spelled(japanese_folder(tmp_path / "folder", "ipadic", **CHARACTERS)))
    tokenizer = open_tokenizer(folder)
    assert tokenizer is not None
    (ids,) = ask(folder, ["\U0001cce2"]).ids
    assert tokenizer.tokens(ids) == ["[CLS]", "M", "[SEP]"]
    assert (wanted(folder, ["\U0001cce2"]) == [ids]) == (unicodedata.unidata_version >= "16")


@pytest.fixture
def japanese(tmp_path: Path) -> Path:
    return shipped(japanese_folder(tmp_path / "folder", "ipadic"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"extra": 1}, "mecab_contract.json is malformed: unknown field `extra`"),
        ({"normalization": "NFD"}, "is malformed: unknown variant `NFD`, expected `NFKC`"),
        ({"normalization": ...}, "is malformed: missing field `normalization`"),
        ({"lower_case": "no"}, 'is malformed: invalid type: string "no", expected a boolean'),
        ({"subwords": "sentencepiece"}, "is malformed: unknown variant `sentencepiece`"),
        ({"schema": "bertx.mecab/2"}, "is bertx.mecab/2, not bertx.mecab/1"),
        ({"special_tokens": [""]}, "is malformed: a special token is empty"),
    ],
    ids=str,
)
def test_a_contract_that_is_malformed_is_refused(
    change: dict[str, Any], told: str, japanese: Path, ask: Callable[..., Ended]
) -> None:
    folder, library = mecab.place(mecab.read_contract(japanese))
    document = {**json.loads((japanese / CONTRACT).read_text("utf-8")), **change}
    kept = {name: value for name, value in document.items() if value is not ...}
    (japanese / CONTRACT).write_text(json.dumps(kept), "utf-8")
    refused(ask(japanese, ["東京"], dictionary=folder, mecab=library), told)


def test_a_file_of_a_dictionary_that_the_contract_does_not_list_is_refused(
    japanese: Path, ask: Callable[..., Ended]
) -> None:
    folder, library = mecab.place(mecab.read_contract(japanese))
    document = json.loads((japanese / CONTRACT).read_text("utf-8"))
    del document["mecab"]["dictionary"]["files"]["sys.dic"]
    (japanese / CONTRACT).write_text(json.dumps(document), "utf-8")
    told = "is malformed: it must list char.bin, dicrc, matrix.bin, mecabrc, sys.dic, unk.dic"
    refused(ask(japanese, ["東京"], dictionary=folder, mecab=library), told)


def test_another_dictionary_is_refused_by_its_hash(japanese: Path, ask: Callable[..., Ended], tmp_path: Path) -> None:
    folder, library = mecab.place(mecab.read_contract(japanese))
    copy = tmp_path / "dicdir"
    shutil.copytree(folder, copy)
    contents = bytearray((copy / "char.bin").read_bytes())
    contents[-1] ^= 1
    (copy / "char.bin").write_bytes(contents)
    told = f"{copy / 'char.bin'} is not the char.bin of ipadic 1.0.0: its sha256 differs"
    refused(ask(japanese, ["東京"], dictionary=copy, mecab=library), told)
    (copy / "char.bin").unlink()
    told = f"it needs the MeCab dictionary ipadic 1.0.0, and there is no {copy / 'char.bin'}"
    refused(ask(japanese, ["東京"], dictionary=copy, mecab=library), told)


def test_what_is_missing_is_said(japanese: Path, ask: Callable[..., Ended], tmp_path: Path) -> None:
    folder, library = mecab.place(mecab.read_contract(japanese))
    told = "mecab_contract.json wants MeCab: say where its dictionary lies, with --dictionary FOLDER"
    refused(ask(japanese, ["東京"], dictionary=None, mecab=library), told)
    refused(ask(japanese, ["東京"], dictionary=folder, mecab=tmp_path / "none.so"), f"MeCab's library {tmp_path}")
    other = next(iter(sorted(Path(np.__file__).parent.parent.glob("numpy.libs/*.so*"))), None)
    if other is not None:
        refused(ask(japanese, ["東京"], dictionary=folder, mecab=other), "it has no mecab_new")


def refused(ended: Ended, told: str) -> None:
    """Exit code 1 and one line that says why."""
    assert ended.code == 1
    assert ended.said.count("\n") == 1
    assert told in ended.said


def spelled(folder: Path) -> Path:
    """The folder with a vocabulary of every character."""
    known = [c for c in dict.fromkeys([*KNOWN, *"".join(KNOWN).lower()]) if c not in "\r\n"]
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *known]), "utf-8")
    return folder


def chunks(pieces: Sequence[str], between: str, size: int) -> list[str]:
    return [between.join(pieces[k : k + size]) for k in range(0, len(pieces), size)]
