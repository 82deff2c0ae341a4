"""Attention while a stage trains: another implementation of the same, where that is faster, and only meanwhile."""

from types import SimpleNamespace

import pytest
import torch

import tiny
from heft.training.attention import LONGEST_EAGER, attention_for_training

ROW = SimpleNamespace(prompt=(5,) * 20, answer=(7,) * 4, length=24)
LONG = SimpleNamespace(prompt=(5,) * LONGEST_EAGER, answer=(7,), length=LONGEST_EAGER + 1)


def meanwhile(model, asked="auto", rows=(ROW,)):
    with attention_for_training(model, asked, rows):
        return model.config._attn_implementation


def test_short_rows_in_bfloat16_on_a_cpu_train_with_eager_attention():
    model = tiny.tiny_model().to(torch.bfloat16)
    assert meanwhile(model) == "eager"
    assert model.config._attn_implementation == "sdpa"


def test_an_error_leaves_the_attention_as_it_was():
    model = tiny.tiny_model().to(torch.bfloat16)

    def fail():
        with attention_for_training(model, "auto", [ROW]):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("dtype", "asked", "rows"),
    [(torch.float32, "auto", (ROW,)), (torch.bfloat16, "sdpa", (ROW,)), (torch.bfloat16, "auto", (ROW, LONG))],
)
def test_float32_a_chosen_attention_and_long_rows_stay_as_they_are(dtype, asked, rows):
    assert meanwhile(tiny.tiny_model().to(dtype), asked, rows) == "sdpa"


def test_both_implementations_give_logits_within_bfloat16s_rounding():
    model = tiny.tiny_model().to(torch.bfloat16)
    ids = torch.randint(3, 250, (2, 24), generator=torch.Generator().manual_seed(0))
    exact = tiny.tiny_model()(ids).logits
    plain = model(ids).logits
    with attention_for_training(model, "auto", [ROW]):
        other = model(ids).logits
    errors = [(logits - exact).pow(2).mean().sqrt() for logits in (plain, other)]
    assert errors[1] < 1.5 * errors[0]
    assert not torch.equal(plain, other)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="cuDNN's attention needs a graphics card")
def test_on_a_graphics_card_no_gradient_is_nan_at_the_lengths_at_which_cudnns_are():
    model = tiny.tiny_model().to("cuda", torch.bfloat16)
    with attention_for_training(model, "auto", [ROW]):
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        assert torch.backends.cuda.mem_efficient_sdp_enabled()
        wide = 64
        q = torch.randn(1, 1, 704, wide, device="cuda", dtype=torch.bfloat16) * 0.1
        k, v = torch.randn_like(q) * 0.1, torch.randn_like(q)
        q[..., 0], k[..., 0] = 1.0, -120 * wide**0.5  # every score is about -120
        q.requires_grad_()
        mask = torch.ones(704, 704, dtype=torch.bool, device="cuda").tril()[None, None]
        torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).sum().backward()
        assert torch.isfinite(q.grad).all()
    assert torch.backends.cuda.cudnn_sdp_enabled()
