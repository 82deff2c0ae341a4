"""Floating-point operations of a step, counted by the usual rule, and the share of the machine's rate they make.

With N the weights that a token meets in matrix products, a forward pass takes 2N operations a token, a backward pass
through frozen weights 2N more, and gradients of trained weights another 2N. Tokens are real tokens, no padding. Left
out: attention scores (about 5 % more at 160 tokens on SmolLM2-135M), norms, the optimiser, ReFT's own few products.
Operations that a library wastes (padding, unread logits, gradients nobody needs) count as nothing, as they should.
"""


def body_weights(config: dict) -> int:
    """Weights of all blocks' matrix products."""
    d, heads = config["hidden_size"], config["num_attention_heads"]
    keys = d * config["num_key_value_heads"] // heads
    return config["num_hidden_layers"] * (2 * d * d + 2 * d * keys + 3 * d * config["intermediate_size"])


def lora_weights(config: dict, rank: int) -> int:
    """Weights of LoRA factors on all linear layers."""
    d, wide = config["hidden_size"], config["intermediate_size"]
    keys = d * config["num_key_value_heads"] // config["num_attention_heads"]
    return config["num_hidden_layers"] * rank * (4 * d + 2 * (d + keys) + 3 * (d + wide))


def operations(kind: str, rows: list[dict], config: dict, rank: int, reach: int) -> float:
    """Operations of one pass over the rows.

    Args:
        kind: coarse (LoRA on all tokens), plain (ReFT, all tokens with gradients), prefix (those before the edited
            ones forward only) or kept (only the edited ones and the answer at all).
        rows: with `prompt` and `answer`.
        config: sizes of the model.
        rank: of LoRA.
        reach: edited tokens from the prompt's end.
    """
    body, head = body_weights(config), config["hidden_size"] * config["vocab_size"]
    answers = sum(len(row["answer"]) for row in rows)
    tokens = sum(len(row["prompt"]) for row in rows) + answers
    suffix = len(rows) * reach + answers
    of_head = 4 * head * answers
    if kind == "coarse":
        return (4 * body + 6 * lora_weights(config, rank)) * tokens + of_head
    if kind == "plain":
        return 4 * body * tokens + of_head
    prefix = 2 * body * (tokens - suffix) if kind == "prefix" else 0
    return prefix + 4 * body * suffix + of_head
