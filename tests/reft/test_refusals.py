"""Models on which no adapter with positions can be placed are refused when it is attached."""

import pytest
import transformers
from peft import LoraConfig, get_peft_model

from heft.alora import ActivatedLoraConfig
from heft.reft import ReftConfig

ENCODER_DECODERS = {
    "T5": {"d_kv": 4, "d_ff": 32, "num_layers": 2, "num_heads": 4},
    "Bart": {
        f"{part}_{key}": value
        for part in ("encoder", "decoder")
        for key, value in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 32))
    },
}


def encoder_decoder(family):
    config = getattr(transformers, f"{family}Config")
    sizes = {"vocab_size": 64, "d_model": 16, "pad_token_id": 0, "decoder_start_token_id": 0}
    model = getattr(transformers, f"{family}ForConditionalGeneration")
    return model(config(**sizes, **ENCODER_DECODERS[family])).eval()


@pytest.mark.parametrize("family", ENCODER_DECODERS)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (ReftConfig, {"positions": "f1+l1"}),
        (ReftConfig, {"positions": "all"}),
        (ActivatedLoraConfig, {"positions": "l2+", "target_modules": "all-linear"}),
    ],
)
def test_a_model_with_an_encoder_is_refused_and_stays_as_it_is(family, kind, options):
    model = encoder_decoder(family)
    modules = list(dict(model.named_modules()))
    with pytest.raises(ValueError, match=r"an encoder .* plain LoRA on this one"):
        get_peft_model(model, kind(**options))
    assert list(dict(model.named_modules())) == modules
    assert "generate" not in vars(model)
    get_peft_model(model, LoraConfig(target_modules="all-linear", task_type="SEQ_2_SEQ_LM"))
