"""A model that reads ahead is refused as a base: it would score an answer by a look at itself."""

import pytest
import torch
from transformers import BertConfig, BertLMHeadModel, XLNetConfig, XLNetLMHeadModel

import tiny
from heft.errors import HeftError
from heft.models.causal import require_causal
from heft.models.load import load_base
from heft.recipe.model import ModelSettings

SIZES = {"vocab_size": 259, "initializer_range": 0.2, "pad_token_id": 0}


def bert(is_decoder):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BertLMHeadModel(BertConfig(is_decoder=is_decoder, **SIZES, **sizes)).eval()


def test_an_encoder_whose_configuration_does_not_make_it_a_decoder_is_no_base(tmp_path):
    for is_decoder in (True, False):
        bert(is_decoder).save_pretrained(tmp_path / str(is_decoder))
        tiny.byte_tokenizer().save_pretrained(tmp_path / str(is_decoder))
    settings = {"device": "cpu", "dtype": "float32"}
    model = load_base(ModelSettings(name=str(tmp_path / "True"), **settings)).model
    rows = torch.tensor([[5, 6, 7, 8], [5, 9, 10, 11]])
    with torch.no_grad():
        assert torch.allclose(*model(rows).logits[:, 0], atol=1e-5)
    with pytest.raises(HeftError, match=r"False' reads ahead.*set is_decoder: true in config.json"):
        load_base(ModelSettings(name=str(tmp_path / "False"), **settings))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_class_that_always_reads_ahead_is_refused_in_any_dtype(dtype):
    config = XLNetConfig(d_model=32, n_layer=2, n_head=4, d_inner=64, **SIZES)
    with pytest.raises(HeftError, match="'x' reads ahead.*take one that was trained to generate text"):
        require_causal("x", XLNetLMHeadModel(config).eval().to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_decoders_are_taken(architecture, dtype, monkeypatch):
    model = tiny.tiny_model(architecture).to(dtype)
    require_causal("x", model)
    for module in model.modules():  # as of a class that does not say so
        monkeypatch.setattr(module, "is_causal", None, raising=False)
    require_causal("x", model)
