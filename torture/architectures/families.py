"""What the general rules of shrink.py do not get right, by family, and further settings that people's models have.

A name with a `+` is a variant: the class before it with the settings behind it. An entry holds keywords of the config
class; a key that begins with `=` is set although the default config lacks it.
"""

REMOVED = "remove this key"
_BY_TURNS = ["sliding_attention", "full_attention"] * 2
_MIXED = ["linear_attention", "full_attention"] * 2
_LARGE_HEADS = {"01": {"head_dim": 16}, "03": {"head_dim": 16}}
_GEMMA_4 = {"layer_types": _BY_TURNS, "num_kv_shared_layers": 2, "per_layer_config": _LARGE_HEADS}
_ZAMBA = {
    "attention_hidden_size": 64,
    "attention_head_dim": 16,
    "num_key_value_heads": 4,
    "layers_block_type": ["linear_attention", "hybrid"] * 2,
    "use_mamba_kernels": False,
}
_LLAMA_4 = {"attention_chunk_size": 64, "=interleave_moe_layer_step": 2}
_DOTS_NOTE = {"num_key_value_heads": 4, "head_dim": 16, "per_layer_config": {}, "index_n_heads": 2}
_QWEN_4 = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 16,
    "indexer_compress_ratio": 4,
    "hc_lowrank": 8,
    "ple_embed_dim": 32,
    "ngram_vocab_size_base": 100,
}


def _rope(kind: str, **more: object) -> dict:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **more}}


ENCODERS = (
    *("bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert"),
    *("rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta", "xlm-roberta-xl", "xmod"),
)
"""Classes that are decoders on request only."""

SETTINGS: dict[str, dict] = {name: {"=is_decoder": True} for name in ENCODERS} | {
    "xmod": {"=is_decoder": True, "=default_language": "en_XX"},
    "big_bird": {"=is_decoder": True, "attention_type": "original_full"},
    "reformer": {
        "=is_decoder": True,
        "axial_pos_shape": [32, 32],
        "axial_pos_embds_dim": [16, 16],
        "attention_head_size": 8,
        "lsh_attn_chunk_length": 8,
        "local_attn_chunk_length": 8,
        "attn_layers": ["local"] * 4,
        "num_hidden_layers": 4,
        "feed_forward_size": 64,
    },
    "gemma3n_text": {
        "layer_types": _BY_TURNS,
        "num_kv_shared_layers": 2,
        "intermediate_size": [64] * 4,
        "activation_sparsity_pattern": [0.0] * 4,
        "laurel_rank": 4,
    },
    "gemma4_text": _GEMMA_4,
    "gemma4": {"text_config": _GEMMA_4},
    "gemma4_assistant": {"text_config": {"hidden_size_per_layer_input": 0}},
    "granitemoehybrid": {
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "shared_intermediate_size": 64,
        "layer_types": _MIXED,
        "position_embedding_type": None,
    },
    "deepseek_v2": {"num_experts_per_tok": 2, "first_k_dense_replace": 1, "n_routed_experts": 4},
    "deepseek_v3": {"head_dim": 8, "num_key_value_heads": 4},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "first_k_dense_replace": 1},
    "dots3_note": {"text_config": _DOTS_NOTE},
    "dots3_note_text": _DOTS_NOTE,
    "gptj": {"rotary_dim": 4},
    "codegen": {"rotary_dim": 4},
    "mpt": {"attn_config": {"attn_pdrop": 0}},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2, "=full_attn_idxs": None},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 1},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "time_step_rank": 4},
    "nemotron": {"num_key_value_heads": 2},
    "nemotron_h": {"mamba_head_dim": 8, "mamba_num_heads": 8, "chunk_size": 16},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "bamba": {"mamba_n_heads": 8, "mamba_d_head": 8, "attn_layer_indices": [1, 3], "=layers_block_type": REMOVED},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_chunk_size": 16},
    "kimi_linear": {"linear_head_dim": 8, "linear_num_heads": 4},
    "zamba": _ZAMBA,
    "zamba2": {
        **_ZAMBA,
        "num_query_groups": 4,
        "kv_channels": 8,
        "mamba_headdim": 8,
        "n_mamba_heads": 8,
        "adapter_rank": 4,
        "=hybrid_layer_ids": [1, 3],
        "chunk_size": 16,
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "=rope_theta": 10000.0},
        "num_key_value_heads": 2,
        "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "xlstm": {"qk_dim_factor": 1.0, "hidden_size": 64, "embedding_dim": 64, "num_blocks": 4},
    "cohere_compass_text": {
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in ("full_attention", "sliding_attention")
        }
    },
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
    "qwen4_exp": {"text_config": _QWEN_4},
    "qwen4_exp_text": _QWEN_4,
    "llama4": {"text_config": _LLAMA_4},
    "llama4_text": _LLAMA_4,
    "phi3+longrope": {
        **_rope(
            "longrope",
            short_factor=[1.0] * 4,
            long_factor=[1.5] * 4,
            original_max_position_embeddings=108,
            factor=2.0,
        ),
        "original_max_position_embeddings": 108,
        "max_position_embeddings": 1024,
    },
    "llama+llama3": _rope(
        "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=256
    ),
    "llama+dynamic": {**_rope("dynamic", factor=2.0), "max_position_embeddings": 108},
    "qwen2+yarn": _rope("yarn", factor=4.0, original_max_position_embeddings=256),
    "qwen2+sliding": {
        "use_sliding_window": True,
        "max_window_layers": 2,
        "sliding_window": 8,
        "layer_types": ["full_attention"] * 2 + ["sliding_attention"] * 2,
    },
    "mistral+full": {"sliding_window": None},
    "gpt2+dropout": {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1},
    "falcon+new": {"=new_decoder_architecture": True, "=num_kv_heads": 2},
    "falcon+rw": {"=num_kv_heads": 4, "=alibi": True, "=parallel_attn": False, "=multi_query": False},
    "gemma4_text+dense": {**_GEMMA_4, "num_kv_shared_layers": 0, "hidden_size_per_layer_input": 0},
    "gemma4_text+moe": {
        "layer_types": _BY_TURNS,
        "hidden_size_per_layer_input": 0,
        "enable_moe_block": True,
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 64,
        "per_layer_config": _LARGE_HEADS,
    },
}

NOT_TEXT = {
    "musicgen": "decoder of audio codes",
    "musicgen_melody": "decoder of audio codes",
    "moshi": "speech and text streams",
    "whisper": "speech decoder",
    "trocr": "image decoder",
    "git": "image captions",
    "got_ocr2": "image to text",
    "moss_transcribe_diarize": "speech to text",
    "gemma4_assistant": "draft model for another model",
    "gemma4_unified_assistant": "draft model for another model",
    "blt": "bytes with a patcher of its own",
}
"""Classes of transformers' mapping that do not continue a text by themselves."""
