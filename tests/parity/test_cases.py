"""The cases: each class of wrong artifact has one, and they are the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from bertx.errors import InputRefused, UsageError
from bertx.parity.cases import LONGEST, Case, Facts, build, facts

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
KNOWN = Facts(vocabulary=90, longest=64, segments=2, padding=0, special=(1, 2, 3), texts=((1, 7, 8, 2), (1, 9, 2)))
QUICK = {case.name: case for case in build("quick", INPUTS, KNOWN)}


def test_every_length_and_batch_that_parity_asks_for_is_there() -> None:
    shapes = [case.inputs["input_ids"].shape for case in QUICK.values()]
    assert {1, 2, 3, 64} <= {length for _, length in shapes}
    assert any(length % 2 and length > 3 for _, length in shapes)
    assert {1, 2, 7} <= {batch for batch, _ in shapes}


@pytest.mark.parametrize(
    ("name", "traits"),
    [
        ("right-padded", {"right"}),
        ("left-padded", {"left"}),
        ("holes", {"holes"}),
        ("one-valid-token", {"right"}),
        ("empty-row", {"empty"}),
        ("segments", {"segments"}),
        ("batch-of-seven", {"full"}),
        ("longest", {"full"}),
        ("long-mixed", {"right", "left", "holes", "segments"}),
        ("text", {"right"}),
    ],
)
def test_a_case_is_what_its_name_says(name: str, traits: set[str]) -> None:
    assert QUICK[name].traits & traits == traits


def test_one_row_has_a_single_valid_token() -> None:
    assert QUICK["one-valid-token"].inputs["attention_mask"].sum(axis=1).min() == 1


def test_only_the_cases_made_for_it_have_a_row_without_a_token_and_never_all_rows() -> None:
    for case in build("full", INPUTS, KNOWN):
        tokens = case.inputs["attention_mask"].sum(axis=1)
        assert (tokens.min() == 0) == case.name.startswith("empty-row") == ("empty" in case.traits)
        assert tokens.max() > 0


def test_the_first_the_last_and_every_special_id_occur() -> None:
    assert {0, 1, 89, 2, 3} <= set(QUICK["edge-ids"].inputs["input_ids"].ravel().tolist())


def test_the_same_row_stands_alone_and_in_a_batch() -> None:
    together, alone = (QUICK[name].inputs["input_ids"] for name in ("rows-together", "row-alone"))
    assert np.array_equal(together[1:2], alone)


def test_the_same_rows_stand_in_another_order() -> None:
    together, permuted = (QUICK[name].inputs["input_ids"] for name in ("rows-together", "rows-permuted"))
    assert not np.array_equal(together, permuted)
    assert sorted(together.tolist()) == sorted(permuted.tolist())


def test_full_runs_every_token_id_once() -> None:
    seen: set[int] = set()
    for case in build("full", INPUTS, KNOWN):
        seen |= set(case.inputs["input_ids"].ravel().tolist())
    assert seen == set(range(90))


def test_the_same_seed_gives_the_same_cases_and_another_seed_others() -> None:
    def ids(seed: int) -> list[list[list[int]]]:
        return [case.inputs["input_ids"].tolist() for case in build("quick", INPUTS, KNOWN, seed)]

    assert ids(3) == ids(3)
    assert ids(3) != ids(4)


def test_ids_and_segments_stay_within_the_model() -> None:
    for case in build("full", INPUTS, KNOWN):
        assert case.inputs["input_ids"].max() < 90
        assert case.inputs["token_type_ids"].max() < 2
        assert case.inputs["input_ids"].shape[1] <= 64


def test_only_the_signatures_inputs_are_given() -> None:
    cases = build("quick", ("input_ids", "attention_mask"), KNOWN)
    assert {tuple(case.inputs) for case in cases} == {("input_ids", "attention_mask")}


def test_a_model_with_one_segment_gets_no_second() -> None:
    one = Facts(90, 64, 1, 0, (), ())
    assert all("segments" not in case.traits for case in build("quick", INPUTS, one))


def test_a_model_of_few_positions_gets_short_cases() -> None:
    assert max(c.inputs["input_ids"].shape[1] for c in build("quick", INPUTS, Facts(90, 4, 2, 0, (1, 2), ()))) == 4


def test_an_unknown_set_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="unknown set of cases most"):
        build("most", INPUTS, KNOWN)


def test_positions_of_padding_offset_families_end_earlier() -> None:
    values = {"vocab_size": 9, "max_position_embeddings": 514, "pad_token_id": 1}
    assert facts({**values, "model_type": "roberta"}, [], []).longest == 512
    assert facts({**values, "model_type": "bert"}, [], []).longest == 514


def test_the_longest_case_is_bounded() -> None:
    values = {"vocab_size": 9, "max_position_embeddings": 100_000, "model_type": "modernbert"}
    made = build("quick", INPUTS, facts(values, [], []))
    assert max(case.inputs["input_ids"].shape[1] for case in made) == LONGEST


def test_a_configuration_without_vocabulary_is_refused() -> None:
    with pytest.raises(InputRefused, match="states no vocab_size"):
        facts({"model_type": "bert"}, [], [])


def test_traits_are_read_off_the_mask() -> None:
    mask = np.array([[0, 1, 0, 1, 0]])
    assert Case("x", {"attention_mask": mask}).traits == {"left", "holes", "right"}
