"""Tiny random models of every class in transformers' causal-LM mapping, made from its config classes."""

import re
from pathlib import Path

import torch
import transformers
from families import REMOVED, SETTINGS
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from heft.builtin import byte_tokenizer

LAYERS, HIDDEN, HEADS, VOCABULARY = 4, 32, 4, 259
_RULES = (
    (r"vocab_size(_per_layer_input)?|ngram_vocab_size.*|.*_vocab_size", VOCABULARY),
    (r"hidden_size|n_embd|d_model|n_embed|dim|d_embed|emb_dim|attention_hidden_size|lru_width", HIDDEN),
    (r"embedding_size|embedding_dim|word_embed_proj_dim", HIDDEN),
    (r"(.*_)?intermediate_size(_mlp|_moe)?|n_inner|(encoder_|decoder_)?ffn_dim|(expert_)?ffn_hidden_size", 64),
    (r"d_ff|dim_ff|dff|d_inner|feed_forward_size|block_ff_dim|conv_dim_out|ffn_hidden_dim|moe_hidden_size", 64),
    (r"(num_|encoder_|decoder_|num_encoder_|num_decoder_|encoder_num_)?(hidden_)?layers|n_layers?|num_blocks", LAYERS),
    (r"n_head_layers", LAYERS),
    (r"((num_)?(encoder_|decoder_|swa_num_)?attention_|num_attn_)heads|n_heads?|num_heads", HEADS),
    (r"num_key_value_heads|(attention_)?num_kv_heads|swa_num_key_value_heads|multi_query_group_num", 2),
    (r"(attention_|global_|swa_|swa_v_|kv_)?head_dim|kv_channels|dim_head|(attention_)?head_size|d_kv", 8),
    (r"(original_)?max_position_embeddings|n_positions|n_ctx|seq_length|(max_)?context_length", 1024),
    (r"max_seq(uence)?_len(gth)?|max_(target|source)_positions|model_max_length|max_context_length", 1024),
    (r"num_(local_|routed_|global_)?experts|n_routed_experts|moe_num_experts", 4),
    (r"num_experts_per_tok(en)?|moe_(topk|k|top_k|router_topk)|top_k_experts|experts_per_token", 2),
    (r"num_selected_experts", 2),
    (r"n_group|topk_group|num_expert_group|n_groups|mamba_n_groups|num_groups", 1),
    (r"(n|num|moe_num)_shared_experts", 1),
    (r".*lora_rank|qk_head_dim", 16),
    (r"qk_nope_head_dim|qk_rope_head_dim|v_head_dim|index_head_dim", 8),
    (r"sliding_window(_size)?|(attention_|local_)?window_size|attention_window", 8),
    (r"initializer_range|init_std|init_method_std", 0.2),
    (r"first_k_dense_replace", 1),
    (r"state_size|mamba_d_state|ssm_state_size|hidden_size_per_layer_input|query_pre_attn_scalar", 8),
    (r"time_step_rank|mamba_dt_rank", 4),
    (r"linear_(num_)?(key|value)_heads|linear_num_(key|value)_heads", 4),
    (r"linear_(key|value)_head_dim", 8),
    (r"decoder_start_token_id", 1),
    (r"use_cache", True),
)
"""Fields of a config, by their whole names, and their tiny values; the first that matches counts."""
_KINDS = (
    "layer_types",
    "layers_block_type",
    "mlp_layer_types",
    "attention_layers",
    "hybrid_layer_pattern",
    "block_types",
)
_DROPOUT = re.compile(r".*(dropout|pdrop|drop_rate|layerdrop|drop_path).*")
_LEFT_ALONE = ("model_type", "architectures", "transformers_version", "dtype", "torch_dtype", "id2label", "label2id")
_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_NOT_REDRAWN = re.compile(r"(norm|A_log|dt_|time_|conv|router\.|gate\.weight|_scale|vision|audio)")
_WEIGHT_SPREAD, _LEAST_SPREAD = 0.2, 0.1


def every_name() -> list[str]:
    """All classes and variants."""
    variants = [name for name in SETTINGS if "+" in name]
    return sorted({*variants, *MODEL_FOR_CAUSAL_LM_MAPPING_NAMES})


def build(name: str) -> "transformers.PreTrainedModel":
    """The tiny model of a name, in float32 and evaluation mode, the same at every call."""
    config = tiny_config(name)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    _redraw(model)
    return model.eval()


def save(name: str, folder: Path) -> None:
    """Build a model and save it with a byte tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    build(name).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)


def tiny_config(name: str) -> "transformers.PretrainedConfig":
    """The config of a name, shrunk."""
    kind = CONFIG_MAPPING[name.partition("+")[0]]
    default = kind()
    values = default.to_dict()
    wanted = _shrunk(values)
    if "num_key_value_heads" in wanted and values["num_key_value_heads"] == values.get("num_attention_heads"):
        wanted["num_key_value_heads"] = HEADS
    sizes = {"hidden_size": HIDDEN, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "vocab_size": VOCABULARY}
    for key, size in sizes.items():
        other = default.attribute_map.get(key)
        if other and not isinstance(values.get(other), dict):
            wanted[other] = size
            wanted.pop(key, None)
    return kind(**(_merged(wanted, SETTINGS.get(name, {})) | _IDS))


def _shrunk(values: dict) -> dict:
    found = {}
    for key, value in values.items():
        if key in _LEFT_ALONE:
            continue
        if isinstance(value, dict) and key.endswith("_config"):
            kept = {"model_type": value["model_type"]} if "model_type" in value else {}
            found[key] = _shrunk(value) | kept
        elif _DROPOUT.fullmatch(key) and isinstance(value, int | float) and not isinstance(value, bool):
            found[key] = 0.0
        elif key in _KINDS and isinstance(value, list) and value:
            kinds = list(dict.fromkeys(value))
            found[key] = (kinds * LAYERS)[:LAYERS]
        elif key in _IDS:
            found[key] = _IDS[key]
        else:
            size = next((size for pattern, size in _RULES if re.fullmatch(pattern, key)), None)
            if size is not None and (key == "head_dim" or not isinstance(value, list | dict | None)):
                found[key] = size
    return found


def _merged(first: dict, second: dict) -> dict:
    merged = dict(first)
    for key, value in second.items():
        key = key.removeprefix("=")
        if value == REMOVED:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merged(merged[key], value)
        else:
            merged[key] = value
    return merged


@torch.no_grad()
def _redraw(model: torch.nn.Module) -> None:
    """Draw weights wide enough that another token, or an edit, visibly changes the logits."""
    for module in model.modules():  # a padding row of zeros would hide what reads it, and has no norm to divide by
        if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
            module.weight[module.padding_idx].normal_(0, _WEIGHT_SPREAD)
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point():
            continue
        broken = not torch.isfinite(parameter).all()
        narrow = parameter.dim() in (2, 3) and parameter.std() < _LEAST_SPREAD and not _NOT_REDRAWN.search(name)
        if broken or narrow:
            parameter.normal_(0, _WEIGHT_SPREAD)
