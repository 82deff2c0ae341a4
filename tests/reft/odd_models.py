"""Tiny random models whose blocks or caches are unlike a Llama's, with weights wide enough for an edit to show."""

import torch
import transformers

COMMON = {"vocab_size": 259, "num_hidden_layers": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
WIDE = {"hidden_size": 32, "initializer_range": 0.2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256}
GEMMA = {"sliding_window": 8, "vocab_size_per_layer_input": 259, "hidden_size_per_layer_input": 8}
GEMMA |= {"num_hidden_layers": 4, "num_kv_shared_layers": 2, "layer_types": ["sliding_attention", "full_attention"] * 2}
MOE = {"moe_intermediate_size": 64, "num_experts_per_tok": 2}
LOW_RANK = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "initializer_range": 0.2}
NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
MAMBA = {"state_size": 8, "time_step_rank": 4}
PROPHET_HEADS = {"num_decoder_attention_heads": 4, "num_encoder_attention_heads": 4}
INDEXER = {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 16}

MODELS = {
    "gemma4": (
        "Gemma4TextConfig",
        WIDE
        | HEADS
        | GEMMA
        | {"intermediate_size": 64, "per_layer_config": {"1": {"head_dim": 16}, "3": {"head_dim": 16}}},
    ),
    "gemma3n": (
        "Gemma3nTextConfig",
        WIDE
        | HEADS
        | GEMMA
        | {
            "intermediate_size": [64] * 4,
            "activation_sparsity_pattern": [0.0] * 4,
            "laurel_rank": 4,
            "altup_active_idx": 1,
        },
    ),
    "deepseek_v4": (
        "DeepseekV4Config",
        WIDE
        | HEADS
        | MOE
        | {"layer_types": ["heavily_compressed_attention", "compressed_sparse_attention"], "q_lora_rank": 16}
        | {"mlp_layer_types": ["hash_moe", "moe"], "n_routed_experts": 4, "o_lora_rank": 16, "index_head_dim": 8}
        | {"sliding_window": 8, "qk_rope_head_dim": 8},
    ),
    "hy_v4": (
        "HYV4Config",
        WIDE
        | HEADS
        | MOE
        | LOW_RANK
        | {"intermediate_size": 64, "num_key_value_heads": 4, "n_routed_experts": 4, "n_group": 1, "topk_group": 1}
        | {"mlp_layer_types": ["dense", "sparse"], "layer_types": ["indexed_attention"] * 2, "index_head_dim": 8}
        | {"indexer_types": ["full", "shared"]},
    ),
    "qwen4_exp": (
        "Qwen4ExpTextConfig",
        WIDE
        | HEADS
        | MOE
        | INDEXER
        | {"layer_types": ["linear_attention", "indexed_attention"], "num_experts": 4, "indexer_compress_ratio": 4}
        | {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 4, "linear_num_value_heads": 4}
        | {"shared_expert_intermediate_size": 64, "hc_lowrank": 8, "ple_embed_dim": 32, "ngram_vocab_size_base": 100},
    ),
    "openai-gpt": ("OpenAIGPTConfig", GPT | {"attn_pdrop": 0.0}),
    "ctrl": ("CTRLConfig", GPT | {"dff": 64}),
    "mamba": ("MambaConfig", WIDE | MAMBA),
    "mamba2": ("Mamba2Config", WIDE | {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1}),
    "falcon_mamba": ("FalconMambaConfig", WIDE | MAMBA),
    "xlstm": (
        "xLSTMConfig",
        {"hidden_size": 64, "embedding_dim": 64, "num_blocks": 2, "num_heads": 4, "qk_dim_factor": 1.0},
    ),
    "rwkv": ("RwkvConfig", {"hidden_size": 32, "attention_hidden_size": 32, "intermediate_size": 64}),
    "xlnet": ("XLNetConfig", {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}),
    "prophetnet": (
        "ProphetNetConfig",
        NO_DROPOUT
        | PROPHET_HEADS
        | {
            "hidden_size": 32,
            "num_decoder_layers": 2,
            "num_encoder_layers": 2,
            "decoder_ffn_dim": 64,
            "encoder_ffn_dim": 64,
        }
        | {"is_decoder": True},
    ),
    "cpmant": ("CpmAntConfig", {"hidden_size": 32, "num_attention_heads": 4, "dim_head": 8, "dim_ff": 64}),
}


def odd_model(name: str) -> transformers.PreTrainedModel:
    """A random model of that family in evaluation mode, float32, the same at every call."""
    config_class, fields = MODELS[name]
    common = COMMON if name not in ("openai-gpt", "ctrl", "xlnet", "prophetnet") else _without_layers()
    config = getattr(transformers, config_class)(**(common | fields))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for key, parameter in model.named_parameters():
            is_matrix = parameter.dim() in (2, 3) and not any(word in key for word in ("norm", "A_log", "dt_", "conv"))
            if is_matrix and not (torch.isfinite(parameter).all() and parameter.std() > 0.1):
                torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def _without_layers() -> dict:
    return {key: value for key, value in COMMON.items() if key != "num_hidden_layers"}
