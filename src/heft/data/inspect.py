"""Training examples as the model will see them, token by token: what is edited, and what is trained on.

Labels, prompt lengths and edited tokens are read off the batch and by the rule that training uses, so what is shown is
what happens.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from transformers import PreTrainedTokenizerBase

from heft.adapters.methods import all_adapters_of, edited_positions
from heft.data.encode import IGNORED, EncodedExample, Encoder, training_batch
from heft.edits.positions import parse_positions
from heft.models.load import load_tokenizer
from heft.recipe.grid import configurations, recipe_of
from heft.recipe.recipe import Recipe
from heft.reft.layout import TokenLayout, edited_token_indices, number_tokens
from heft.tasks import load_examples


@dataclass(frozen=True)
class Editor:
    """One adapter, and which tokens it edits; positions are None where it edits none (LoRA)."""

    name: str
    positions: str | None


@dataclass(frozen=True)
class ShownToken:
    """One token.

    Attributes:
        id: in the vocabulary.
        text: that it stands for; the vocabulary's own spelling where it is a part of a character.
        special: whether it is one of the tokenizer's special tokens.
        trained: whether it is trained on, as part of the answer.
        edited_by: numbers of the editors that edit it.
    """

    id: int
    text: str
    special: bool
    trained: bool
    edited_by: tuple[int, ...]


@dataclass(frozen=True)
class ShownExample:
    """A training example: its id, its tokens, those of its prompt, and how many were cut out of the prompt."""

    id: str
    prompt_tokens: int
    cut: int
    tokens: tuple[ShownToken, ...]


@dataclass(frozen=True)
class Shown:
    """The first training examples of a recipe, and the adapters by whose numbers tokens are marked."""

    editors: tuple[Editor, ...]
    examples: tuple[ShownExample, ...]

    def to_dict(self) -> dict:
        """For JSON."""
        return asdict(self)


def show_examples(recipe: Recipe, number: int) -> Shown:
    """The first training examples of a recipe, after its limit; the checks before training are not made.

    Raises:
        HeftError: the data or the tokenizer cannot be loaded, or the examples do not fit.
    """
    tried = [recipe] if recipe.sweep is None else [recipe_of(recipe, each) for each in configurations(recipe)]
    tokenizer, task = load_tokenizer(recipe.model), recipe.task
    positions = [each for one in tried for each in edited_positions(one)]
    encode = Encoder.of(tokenizer, task, positions)
    adapters = [adapter for one in tried for adapter in all_adapters_of(one)]
    editors = tuple(dict.fromkeys(Editor(a.name, a.positions and str(a.positions)) for a in adapters))
    rows = encode(load_examples(task, "train")[:number])
    return Shown(editors, tuple(_tokenised(row, editors, tokenizer) for row in rows))


def _tokenised(row: EncodedExample, editors: Sequence[Editor], tokenizer: PreTrainedTokenizerBase) -> ShownExample:
    batch = training_batch([row], tokenizer.pad_token_id)
    layout = TokenLayout(number_tokens(batch["attention_mask"].bool()), batch["prompt_lengths"])
    edited = [
        set(edited_token_indices(layout, parse_positions(e.positions), "shared").tolist()) if e.positions else set()
        for e in editors
    ]
    ids, trained = batch["input_ids"][0].tolist(), (batch["labels"][0] != IGNORED).tolist()
    special = set(tokenizer.all_special_ids)
    tokens = [
        ShownToken(
            id=token,
            text=text,
            special=token in special,
            trained=trained[place],
            edited_by=tuple(number for number, places in enumerate(edited) if place in places),
        )
        for place, (token, text) in enumerate(zip(ids, token_texts(ids, tokenizer), strict=True))
    ]
    return ShownExample(row.example.id, len(row.prompt), row.cut, tuple(tokens))


def token_texts(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What each token stands for; the vocabulary's spelling where that is no text, such as a part of a character.

    Each is decoded behind a fixed text, since some tokenizers drop the space of what they decode first.
    """
    before = tokenizer("a", add_special_tokens=False)["input_ids"]
    start = _decoded(before, tokenizer)
    texts = {}
    for token in set(ids):
        text = _decoded([*before, token], tokenizer)
        whole = text.startswith(start) and len(text) > len(start) and "\ufffd" not in text
        texts[token] = text[len(start) :] if whole else str(tokenizer.convert_ids_to_tokens(token))
    return [texts[token] for token in ids]


def _decoded(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
