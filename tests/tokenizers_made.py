"""Small tokenizers of the kinds that models come with, trained on a text: byte-level and sentencepiece-style."""

import json

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]
TEXT = [
    "### Instruction: Is the sky blue? Answer: yes Answer: no ### Response: yes, it is. No! A B C D",
    "def add(a, b):\n    return a + b\n\n\tif x:\n\t\tpass\nQuestion: where is Anna? Answer: in the kitchen",
    "user assistant [INST] [/INST] The capital of Cuba is Havana.\n1 + 2 = 3, 40 + 2 = 42. not sure, not",
]
_LINES = ["### Response:\nyes\n### Response:\nno\n### Response:\nnot sure\n"]
_REPEATS = 50


def _in_one_line(text: str) -> str:
    """sentencepiece's vocabularies have no line ends or tabs."""
    return text.replace("\n", " ").replace("\t", " ")


def _wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    names = dict(zip(("unk_token", "bos_token", "eos_token", "pad_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, padding_side="left")


def llama_2_style() -> PreTrainedTokenizerFast:
    """As tokenizer.json of Llama 2 and Mistral v1: BPE without words, a space put before every text, bytes for \\n."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    alphabet = sorted({c for text in TEXT for c in text.replace(" ", "▁") if c not in "\n\t"})
    special = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    splits = pre_tokenizers.Split("▁", "merged_with_next")  # so that merges stay within words, as sentencepiece trains
    tokenizer.pre_tokenizer = splits
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_REPEATS * [_in_one_line(text) for text in TEXT], trainer)
    tokenizer.pre_tokenizer = None
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _wrapped(tokenizer)


def metaspace_style(scheme: str = "always", byte_fallback: bool = True) -> PreTrainedTokenizerFast:
    """A unigram model behind Metaspace, as T5, ALBERT and newer Llama conversions have."""
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0)], unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=scheme)])
    special = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.UnigramTrainer(vocab_size=420, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(_REPEATS * [_in_one_line(text) for text in TEXT], trainer)
    vocabulary = [tuple(entry) for entry in json.loads(tokenizer.to_str())["model"]["vocab"]]
    tokenizer.model = models.Unigram(vocabulary, unk_id=0, byte_fallback=byte_fallback)  # the trainer takes that away
    return _wrapped(tokenizer)


def byte_level_style(pattern: str | None = None) -> PreTrainedTokenizerFast:
    """Byte-level BPE, with GPT-2's words or those of another pattern (Llama 3, Qwen)."""
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    if pattern is not None:
        words = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), words])
    tokenizer.pre_tokenizer, tokenizer.decoder = words, decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_REPEATS * [*TEXT, *_LINES], trainer)
    return _wrapped(tokenizer)


LLAMA_3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def with_turns(tokenizer: PreTrainedTokenizerFast, template: str, *tokens: str) -> PreTrainedTokenizerFast:
    """The tokenizer with special tokens more and a chat template."""
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens], special_tokens=True)
    tokenizer.chat_template = template
    return tokenizer
