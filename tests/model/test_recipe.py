"""Recipes are words that mean one thing."""

from __future__ import annotations

import pytest

from mlxrag.errors import BadInput
from mlxrag.model.recipe import FIXED, MIXED, parse, recipe_of
from mlxrag.settings import ModelSettings, Quantizing

WORDS = ["2", "3", "4", "5", "6", "8", "4-g32", "4-g128", *FIXED, *MIXED, "mixed_3_4-g32", "awq-4", "gptq-8-g32", "dwq-3",
         "dynamic-4", "dynamic-4-to-6@5", "dynamic-3-to-8-g32@4.5"]  # fmt: skip


@pytest.mark.parametrize("word", WORDS)
def test_a_recipe_reads_its_own_name(word: str) -> None:
    """`parse` gives a recipe whose name is read as the same recipe."""
    recipe = parse(word)
    assert parse(recipe.name) == recipe


@pytest.mark.parametrize(
    "word",
    ["", "four", "1", "7", "9", "4-g48", "mxfp4-g64", "awq-mxfp4", "mixed_1_2", "gptq-3", "dwq-8", "4@5", "dynamic-7"],
)
def test_what_mlx_cannot_pack_is_refused(word: str) -> None:
    """Other bits, groups and combinations are refused with what there is."""
    with pytest.raises(BadInput):
        parse(word)


def test_flags_become_recipes() -> None:
    """The flags of mlx_lm.convert give the recipe they mean there; none of them gives none."""
    plain = Quantizing()
    assert recipe_of(ModelSettings(), plain) is None
    assert recipe_of(ModelSettings(), plain, always=True) == parse("4-g64")
    assert recipe_of(ModelSettings(q_bits=8, q_group_size=32), plain) == parse("8-g32")
    assert recipe_of(ModelSettings(q_mode="nvfp4"), plain) == parse("nvfp4")
    assert recipe_of(ModelSettings(), Quantizing(quant_predicate="mixed_3_6")) == parse("mixed_3_6")
    assert recipe_of(ModelSettings(q_bits=3), Quantizing(quantizer="awq")) == parse("awq-3")


@pytest.mark.parametrize(
    ("model", "quantizing"),
    [
        (ModelSettings(q_bits=4), Quantizing(quant_predicate="mixed_3_6")),
        (ModelSettings(q_mode="mxfp4", q_bits=8), Quantizing()),
        (ModelSettings(q_mode="mxfp8"), Quantizing(quantizer="awq")),
        (ModelSettings(q_bits=7), Quantizing()),
    ],
)
def test_flags_that_exclude_each_other_are_refused(model: ModelSettings, quantizing: Quantizing) -> None:
    """Two ways to say how many bits, or bits that cannot be packed, are refused."""
    with pytest.raises(BadInput):
        recipe_of(model, quantizing)
