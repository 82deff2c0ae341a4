"""Settings as the page lists them: which of them are defaults."""

from heft.recipe.recipe import Recipe
from heft.report.provenance import flat, not_defaults


def test_a_setting_whose_key_has_dots_is_no_default():
    patterns = {"rank_pattern": {"layers.0.self_attn.q_proj": 8}, "alpha_pattern": {"v_proj": 4.0}}
    recipe = {
        "name": "patterns",
        "task": {"name": "whereabouts"},
        "stages": {"coarse": {"method": "lora", "rank": 4, **patterns}},
    }
    resolved = Recipe.model_validate(recipe).model_dump(mode="json")
    chosen = not_defaults(resolved)
    assert {key for key in chosen if "pattern" in key} == {
        "stages.coarse.rank_pattern.layers.0.self_attn.q_proj",
        "stages.coarse.alpha_pattern.v_proj",
    }
    assert chosen <= flat(resolved).keys()
