"""Rotary positions that are scaled by length: what a row gives does not depend on the rows before it."""

import pytest
import torch

import tiny
from heft.models.load import load_base
from heft.recipe.model import ModelSettings

DYNAMIC = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0}
PLAIN = {"rope_type": "default", "rope_theta": 100.0}


def saved(folder, architecture, rope):
    tiny.tiny_model(architecture, max_position_embeddings=24, rope_parameters=rope).save_pretrained(folder)
    tiny.byte_tokenizer().save_pretrained(folder)
    return ModelSettings(name=str(folder), device="cpu", dtype="float32")


@pytest.mark.parametrize(
    ("architecture", "rope"),
    [("llama", DYNAMIC), ("gemma3", {"full_attention": DYNAMIC, "sliding_attention": PLAIN})],
    ids=["one for all", "by layer"],
)
def test_rows_are_computed_as_by_a_model_that_has_computed_nothing_yet(architecture, rope, tmp_path):
    settings = saved(tmp_path, architecture, rope)
    rows = [torch.randint(3, 259, (1, length), generator=torch.Generator().manual_seed(length)) for length in (60, 24)]
    with torch.no_grad():
        alone = [load_base(settings).model(row).logits for row in rows]
        model = load_base(settings).model
        for before in (200, 10, 61):
            model(torch.full((1, before), 5))
            for row, expected in zip(rows, alone, strict=True):
                assert torch.equal(model(row).logits, expected)


def test_the_scale_still_grows_with_the_length_of_a_pass(tmp_path):
    scaled, plain = (
        load_base(saved(tmp_path / name, "llama", rope)).model for name, rope in (("scaled", DYNAMIC), ("plain", PLAIN))
    )
    short, long = torch.full((1, 24), 5), torch.arange(3, 103)[None]
    with torch.no_grad():
        assert torch.equal(scaled(short).logits, plain(short).logits)
        assert not torch.allclose(scaled(long).logits, plain(long).logits, atol=1e-2)
