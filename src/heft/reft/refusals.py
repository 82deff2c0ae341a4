"""Why a call is refused, most often for prompt positions (`fN`, `lN`): each message says what to pass or do."""

import torch

NO_PROMPT = (
    "a row is labelled from its first token on, so it has no prompt for a ReFT edit to stand in: set the labels of the"
    " prompt to -100, pass prompt_lengths=[...], or use positions='all'"
)
LABELS_OF_ROWS = (
    "labels that are not one for each token, as of a model that classifies, do not tell where the prompts of a ReFT"
    " adapter end: pass prompt_lengths=[...] (attention_mask.sum(1) where a row is all prompt), or use positions='all'"
)
NO_PROMPT_LENGTHS = (
    "this pass trains a ReFT adapter of prompt positions, and neither labels nor prompt_lengths reach the model, so the"
    " answer would count as prompt. Pass prompt_lengths=[...], one for each sequence. A Trainer takes the labels out of"
    " the batch for label_smoothing_factor and compute_loss_func: give it"
    " data_collator=heft.reft.with_prompt_lengths(data_collator). Or use positions='all'"
)
PADDED_WITHOUT_MASK = (
    "some rows of this batch begin or end with a padding token (or id 0) and there is no attention_mask, so where the"
    " prompts are is unknown: pass attention_mask, and prompt_lengths=[...] too where a row holds an answer as well"
)
CACHE_UNKNOWN = (
    "the cache's length is unknown, and so is where the prompt is: call model.generate, or"
    " run prompt and answer in one pass without a cache, with prompt_lengths=[...]"
)
PAGED = (
    "continuous batching (generate_batch) does not tell the model where each request's prompt ends, so a ReFT adapter"
    " of prompt positions cannot be placed: call model.generate, or use positions='all'"
)
GUIDED = (
    "classifier-free guidance (guidance_scale) without a cache runs two prompts whose passes cannot be told apart, so a"
    " ReFT adapter of prompt positions cannot be placed: leave out use_cache=False, or use positions='all'"
)

TWO_TEXTS = (
    "a model with an encoder (T5, BART) reads one text there and another in its decoder, and adapters with positions"
    " follow a single text: use a model that AutoModelForCausalLM loads, or plain LoRA on this one"
)
REPLICA = (
    "nn.DataParallel runs copies of the model in threads, and a ReFT adapter follows one pass at a time: use one device"
    " (CUDA_VISIBLE_DEVICES=0), or a process for each with torchrun or accelerate launch"
)
ANOTHER_THREAD = (
    "this model is being called in another thread, and a ReFT adapter follows one pass at a time: put a lock around the"
    " calls, or copy the model for each thread"
)


def cache_of_other_rows(filled: int, batch: int) -> str:
    """The reason where a cache was filled by another number of rows."""
    return (
        f"the cache was filled by a call of {filled} rows, and this one has {batch}: pass prompt_lengths=[...], one for"
        " each row"
    )


def refuse_if(doubt: torch.Tensor | bool, reason: str) -> None:
    """Raise where a doubt holds anywhere; compiled code looks when it runs, and the meta device has nothing to look at.

    Raises:
        ValueError: the doubt holds (RuntimeError from compiled code).
    """
    if torch.is_tensor(doubt):
        if torch.compiler.is_compiling():
            torch._assert_async(~doubt.any(), reason)
            return
        doubt = not doubt.is_meta and bool(doubt.any())
    if doubt:
        raise ValueError(reason)
