"""docs/guides/ner: a checkpoint is fine-tuned in Rust, refused where it does not fit, and goes back to ONNX."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from bertx.cli.options import cache_folder
from bertx.runtimes import registry
from families import make_class
from program import ROOT, Ran, ready_or_skip
from rust import compiled

GUIDE = ROOT / "docs" / "guides" / "ner"
PAGE = (GUIDE / "README.md").read_text("utf-8")
LABELS = ["B-LOC", "B-ORG", "B-PER", "I-LOC", "I-ORG", "I-PER", "O"]
#: a name in its own spelling, words of many tokens, and marks that part words
TEXT = "Emmy Noether taught in Göttingen, she wasn't paid; the Royal Society's unbelievable bookkeeping (1915)."


@dataclass(frozen=True)
class Walked:
    """The folder where the commands of the page were run, and how each of them ended."""

    folder: Path
    ended: Mapping[str, Ran]

    def of(self, begin: str) -> Ran:
        (found,) = [ran for line, ran in self.ended.items() if line.startswith(begin)]
        return found


def lines() -> list[str]:
    """The commands of the page; those that build come before them here."""
    found = re.findall(r"(?m)^\$ (.*)$", PAGE)
    return [line for line in found if not line.startswith(("export", "cargo", "bertx build"))]


@pytest.fixture(scope="module")
def ner() -> Callable[..., Ran]:
    """Runs `ner WORDS`, the program of the guide."""
    program = compiled(GUIDE, "ner")

    def run(*words: str | Path, cwd: Path | None = None) -> Ran:
        command = [str(program), *map(str, words)]
        ended = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300, check=False)
        return Ran(ended.returncode, ended.stdout, ended.stderr)

    return run


@pytest.fixture(scope="module")
def walked(
    ner: Callable[..., Ran], bertx: Callable[..., Ran], minilm: Path, tmp_path_factory: pytest.TempPathFactory
) -> Walked:
    """The page from its first command to its last but that which names runtimes, which a test of its own runs."""
    folder = tmp_path_factory.mktemp("ner")
    shutil.copy(GUIDE / "sentences.txt", folder)
    ended = {}
    for line in lines():
        words = shlex.split(line.replace("sentence-transformers/all-MiniLM-L6-v2", shlex.quote(str(minilm))))
        if "--runtime" not in words:
            ran = (bertx if words[0] == "bertx" else ner)(*words[1:], cwd=folder)
            assert ran.code == 0, f"{line}\n{ran.err}"
            ended[line] = ran
    return Walked(folder, ended)


def losses(printed: str) -> list[float]:
    return [float(loss) for loss in re.findall(r"(?m)^epoch +\d+: loss ([\d.]+)$", printed)]


def spreads(printed: str) -> list[float]:
    """By how much two passes over one batch differ: (in training, in evaluation)."""
    (found,) = re.findall(r"two passes differ by (\S+) in training, by (\S+) in evaluation", printed)
    return [float(each) for each in found]


def test_the_loss_falls_and_the_sentences_are_learned(walked: Walked) -> None:
    printed = walked.of("target/release/ner train").out
    found = losses(printed)
    assert len(found) == 10
    assert found[-1] < 0.1 * found[0]
    ((right, count),) = re.findall(r"(?m)^(\d+) of (\d+) words are labelled rightly$", printed)
    words = [line for line in (GUIDE / "sentences.txt").read_text("utf-8").splitlines() if line]
    assert int(count) == len(words)  # each word counts once, by its first token
    assert int(right) >= 0.95 * int(count)


def shape(text: str) -> list[str]:
    return [re.sub(r" +", " ", re.sub(r"\d+(\.\d+)?(e-\d+)?", "#", line)) for line in text.splitlines()]


def test_the_page_shows_what_the_program_prints(walked: Walked) -> None:
    printed = [walked.of("target/release/ner train").out, walked.of("target/release/ner tag").out]
    assert [shape(each) for each in re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)] == [shape(p) for p in printed]


def test_dropout_acts_in_training_and_in_evaluation_not(walked: Walked) -> None:
    training, evaluation = spreads(walked.of("target/release/ner train").out)
    assert training > 0.01
    assert evaluation == 0


def test_a_checkpoint_without_dropout_trains_without(ner: Callable[..., Ran], walked: Walked, tmp_path: Path) -> None:
    """So the other's passes differ by dropout, and by each kind of it that config.json states."""
    rates = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
    for kept in (None, *rates):
        folder = altered(walked.folder / "ner", tmp_path / f"{kept}", {r: 0.3 if r == kept else 0.0 for r in rates})
        ran = ner("train", folder, GUIDE / "sentences.txt", tmp_path / f"{kept}-tuned", "0")
        assert ran.code == 0, ran.err
        training, evaluation = spreads(ran.out)
        assert (training > 0.01, evaluation) == (kept is not None, 0)
        shutil.rmtree(tmp_path / f"{kept}-tuned")


def altered(source: Path, folder: Path, values: Mapping[str, Any]) -> Path:
    """A folder with the files of another and these values in its config.json."""
    folder.mkdir()
    for path in source.iterdir():
        if path.is_file() and path.name != "config.json":
            (folder / path.name).symlink_to(path)
    told = json.loads((source / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(told | values), "utf-8")
    return folder


def test_what_it_wrote_is_a_checkpoint_of_transformers_with_the_same_answers(
    ner: Callable[..., Ran], walked: Walked
) -> None:
    import torch
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    folder = walked.folder / "ner-tuned"
    model, loading = AutoModelForTokenClassification.from_pretrained(
        folder, attn_implementation="eager", output_loading_info=True
    )
    assert not any(loading.values())
    assert [model.config.id2label[k] for k in range(7)] == LABELS
    encoded = AutoTokenizer.from_pretrained(folder)(TEXT, return_tensors="pt")
    with torch.inference_mode():
        chances = model.eval()(**encoded).logits[0].softmax(-1)
    word_ids = encoded.word_ids()
    firsts = [k for k, word in enumerate(word_ids) if word is not None and word != word_ids[k - 1]]
    spans = [encoded.word_to_chars(word_ids[k]) for k in firsts]
    ran = ner("tag", folder, TEXT)
    *rows, last = ran.out.splitlines()
    said = [row.split() for row in rows]
    assert [row[0] for row in said] == [TEXT[span.start : span.end] for span in spans]
    assert [row[1] for row in said] == [LABELS[int(chances[k].argmax())] for k in firsts]
    assert max(abs(float(row[2]) - float(chances[k].max())) for row, k in zip(said, firsts, strict=True)) < 6e-4
    assert float(re.findall(r"differ from those of tch by (\S+) at most", last)[0]) < 2e-5


def test_a_name_that_it_learned_is_found(walked: Walked) -> None:
    rows = [row.split()[:2] for row in walked.of("target/release/ner tag").out.splitlines()]
    assert [row for row in rows if row[0] in ("Ada", "Lovelace", "wrote", "New", "York")] == [
        ["Ada", "B-PER"],
        ["Lovelace", "I-PER"],
        ["wrote", "O"],
        ["New", "B-LOC"],
        ["York", "I-LOC"],
    ]


def test_the_circle_closes(walked: Walked) -> None:
    assert "verdict: pass" in walked.of("bertx verify").out
    assert (walked.folder / "ner-tuned-bertx" / "onnx" / "model.onnx").is_file()


def test_tch_and_candle_compute_what_pytorch_computes(bertx: Callable[..., Ran], walked: Walked) -> None:
    (line,) = [line for line in lines() if "--runtime" in line]
    words = shlex.split(line)[1:]
    names = [name for option, name in pairwise(words) if option == "--runtime"]
    for name in names:
        ready_or_skip(registry()[name].at(cache_folder()))
    ran = bertx(*words, "--json", cwd=walked.folder, BERTX_CACHE=str(cache_folder()))
    assert ran.code == 0, ran.err
    assert [(each["runtime"], each["verdict"]) for each in ran.results] == [(name, "pass") for name in names]
    assert all(each["outputs"][0]["name"] == "logits" for each in ran.results)


def missing(tensors: dict[str, Any]) -> str:
    del tensors["classifier.weight"]
    return "the weight classifier.weight is not in the file"


def extra(tensors: dict[str, Any]) -> str:
    tensors["bert.encoder.layer.2.output.dense.bias"] = tensors["bert.encoder.layer.1.output.dense.bias"]
    return "the weight bert.encoder.layer.2.output.dense.bias is in the file and in no layer of the model"


def broadcastable(tensors: dict[str, Any]) -> str:
    tensors["bert.embeddings.LayerNorm.bias"] = tensors["bert.embeddings.LayerNorm.bias"][:1]
    return "the weight bert.embeddings.LayerNorm.bias has shape [1] in the file, not [32]"


def transposed(tensors: dict[str, Any]) -> str:
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    tensors[name] = tensors[name].T.copy()
    return f"the weight {name} has shape [32, 48] in the file, not [48, 32]"


def halved(tensors: dict[str, Any]) -> str:
    tensors["classifier.bias"] = tensors["classifier.bias"].astype("float16")
    return "the weight classifier.bias is float16 where float32 is claimed"


def unprefixed(tensors: dict[str, Any]) -> str:
    for name in [name for name in tensors if name.startswith("bert.")]:
        tensors[name.removeprefix("bert.")] = tensors.pop(name)
    return "the weight bert.embeddings.LayerNorm.bias is not in the file"


@pytest.mark.parametrize("fault", [missing, extra, broadcastable, transposed, halved, unprefixed])
def test_a_file_that_does_not_fit_is_refused_by_the_name_of_the_tensor(
    fault: Callable[[dict[str, Any]], str], ner: Callable[..., Ran], tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    folder = make_class("BertForTokenClassification", tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors, folder / "model.safetensors")
    sound = ner("train", folder, GUIDE / "sentences.txt", tmp_path / "tuned")
    assert "the weight" not in sound.err  # it is the fault that is refused: this one has no tokenizer, or other labels
    told = fault(tensors)
    save_file(tensors, folder / "model.safetensors")
    ran = ner("train", folder, GUIDE / "sentences.txt", tmp_path / "tuned")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(f"ner: {folder}/model.safetensors: {told}")
    assert ran.err.count("\n") == 1
    assert not (tmp_path / "tuned").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Ada I-PER\n", ":1: I-PER cannot stand here"),
        ("Ada B-PER\nParis I-LOC\n", ":2: I-LOC cannot stand here"),
        ("Ada PER\n", ":1: PER cannot stand here"),
        ("Ada\n", ":1: not a word and its label"),
        ("\n\n", "has no sentences"),
        ("Ada B-PER\n. O\n", "the head has 7 labels and the sentences have 2: add --num-labels 2"),
    ],
)
def test_sentences_that_cannot_be_learned_from_are_refused(
    text: str, told: str, ner: Callable[..., Ran], walked: Walked, tmp_path: Path
) -> None:
    (tmp_path / "sentences.txt").write_text(text, "utf-8")
    ran = ner("train", walked.folder / "ner", tmp_path / "sentences.txt", tmp_path / "tuned")
    assert (ran.code, told in ran.err) == (1, True)
    assert not (tmp_path / "tuned").exists()


def test_a_word_of_which_no_token_is_left_is_refused(ner: Callable[..., Ran], walked: Walked, tmp_path: Path) -> None:
    (tmp_path / "sentences.txt").write_text("Ada B-PER\n\u0301 O\nwrote O\n", "utf-8")
    ran = ner("train", walked.folder / "ner-tuned", tmp_path / "sentences.txt", tmp_path / "more")
    assert (ran.code, "2 of 3 words have tokens" in ran.err) == (1, True)


def test_a_checkpoint_with_names_keeps_them_and_goes_on_from_where_it_was(
    ner: Callable[..., Ran], walked: Walked, tmp_path: Path
) -> None:
    first = (GUIDE / "sentences.txt").read_text("utf-8").partition("\n\n")[0]  # it names no organisation
    (tmp_path / "sentences.txt").write_text(first, "utf-8")
    ran = ner("train", walked.folder / "ner-tuned", tmp_path / "sentences.txt", tmp_path / "more", "1")
    assert ran.code == 0, ran.err
    assert losses(ran.out)[0] < 0.2 * losses(walked.of("target/release/ner train").out)[0]
    assert list(json.loads((tmp_path / "more" / "config.json").read_text("utf-8"))["id2label"].values()) == LABELS


def test_nothing_is_replaced(ner: Callable[..., Ran], walked: Walked) -> None:
    before = (walked.folder / "ner-tuned" / "model.safetensors").stat().st_mtime_ns
    ran = ner("train", "ner", "sentences.txt", "ner-tuned", cwd=walked.folder)
    assert (ran.code, ran.err) == (1, "ner: ner-tuned is there already\n")
    assert (walked.folder / "ner-tuned" / "model.safetensors").stat().st_mtime_ns == before
