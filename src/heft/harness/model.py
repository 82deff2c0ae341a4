"""The model class `heft` of lm-evaluation-harness.

The harness sends a context and a continuation apart, so it is known where each prompt ends: heft's own evaluation
scores them, with attention mask, prompt lengths and shared prefixes. What the harness itself decides is as in its class
for transformers models, HFLM: how a pair is tokenised, what stands for an empty context, what is cut.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import resolve_max_length
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heft import __version__
from heft.data.encode import UNCUT, Encoder
from heft.data.padding import padding_matters
from heft.errors import HeftError
from heft.evaluation.generation import generate_texts
from heft.evaluation.scoring import in_fitting_batches
from heft.harness.generating import Decoding, decoding_of
from heft.harness.opening import (
    as_overrides,
    device_named,
    open_model,
    opened_from,
    require_unset,
    rows_of_a_pass,
)
from heft.harness.progress import HarnessReporter
from heft.harness.questions import questions_of
from heft.harness.scoring import score_requests
from heft.models.chat import ChatTemplate
from heft.reft.tracker import positions_of
from heft.runtime import distributed
from heft.runtime.reporter import Reporter
from heft.text.listing import first_of

_GENERATION = "generation"


class HeftLM(TemplateLM):
    """A model with heft's adapters, or a base model.

    Args:
        pretrained: a run, its adapter directory or a base model, by name; or a model that is loaded, as from
            `heft.load`, in evaluation mode.
        tokenizer: of a model that is loaded.
        batch_size: rows of a forward pass; "auto" begins with 64, or `max_batch_size`, and halves it while memory runs
            out; None takes what the adapter was evaluated with.
        max_batch_size: with `batch_size="auto"`, what it begins with.
        device, dtype: of the base model, where not as in training.
        stages: whose adapters are on, joined by "+", such as "coarse"; "base" for none; None for all.
        base: folder or Hub id of the base model, if it has moved since training.
        max_length: most tokens of a row; None for what the model was made for.
        add_bos_token: whether texts begin with a BOS token where the tokenizer puts one.
        prefix_token_id: stands for an empty context; None for the BOS token, else the EOS token.
        settings: `evaluation.KEY=VALUE` and `model.KEY=VALUE`, as `--set` takes them, where not as in training; in one
            text, as `--model_args` has it, with spaces between.
        chat_template_args, enable_thinking: what a chat template is handed; None for as in training.
        trust_remote_code: whether code that comes with the base model may run.
        reporter: hears of the progress; None for bars on standard error and the harness's log.

    Raises:
        HeftError: the model cannot be loaded, options do not go together, or there are several processes.
    """

    def __init__(
        self,
        pretrained: str | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        dtype: str | None = None,
        stages: str | None = None,
        base: str | None = None,
        max_length: int | None = None,
        add_bos_token: bool = True,
        prefix_token_id: int | None = None,
        settings: str | Sequence[str] = (),
        chat_template_args: Mapping[str, Any] | None = None,
        enable_thinking: bool | None = None,
        trust_remote_code: bool = False,
        reporter: Reporter | None = None,
    ):
        super().__init__()
        if distributed.count() > 1:
            raise HeftError(
                "heft's model class for lm-evaluation-harness runs in one process; start it without torchrun"
            )
        device = device_named(device)
        settings = settings.split() if isinstance(settings, str) else settings
        self.reporter = HarnessReporter() if reporter is None else reporter
        evaluation = {"evaluation__batch_size": rows_of_a_pass(batch_size, max_batch_size)}
        overrides = as_overrides(model__device=device, model__dtype=dtype, **evaluation)
        if isinstance(pretrained, str):
            opened = open_model(
                pretrained,
                stages=stages.split("+") if stages else (),
                base=base,
                trust_remote_code=trust_remote_code,
                overrides=[*settings, *overrides],
            )
        else:
            require_unset(device=device, dtype=dtype, stages=stages, base=base)
            opened = opened_from(pretrained, tokenizer, [*settings, *as_overrides(**evaluation)])
        self._opened, self.model, self.tokenizer = opened, opened.model, opened.tokenizer
        self._max_length, self._prefix_token_id, self._add_bos = max_length, prefix_token_id, add_bos_token
        self._chat_args = chat_template_args, enable_thinking
        self._was_templated = False

    @property
    def eot_token_id(self) -> int:
        """The tokenizer's EOS token."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What stands for an empty context: the BOS token, else the EOS token."""
        given, bos = self._prefix_token_id, self.tokenizer.bos_token_id
        return given if given is not None else self.eot_token_id if bos is None else bos

    @cached_property
    def max_length(self) -> int:
        """Most tokens of a row."""
        return self._max_length or resolve_max_length(self.model.config, self.tokenizer)

    @property
    def batch_size(self) -> int:
        """Rows of a forward pass, while memory holds them."""
        return self._opened.evaluation.batch_size

    @property
    def device(self):
        """Where the model is."""
        return self.model.device

    @property
    def config(self):
        """Of the base model, from which the harness takes its name."""
        return self.model.config

    @property
    def tokenizer_name(self) -> str:
        """For the harness's cache of requests."""
        return self.tokenizer.name_or_path.replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs) -> list[int]:
        """Ids of a text, behind a BOS token where the tokenizer puts one and the text has none yet."""
        has_bos = string.startswith(self.tokenizer.decode(self.prefix_token_id))
        if add_special_tokens is False or not self._add_bos or (add_special_tokens is None and has_bos):
            return self.tokenizer(string, add_special_tokens=False)["input_ids"]
        return self._encoder.prompt(string)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A chat as the tokenizer's template writes it, with what the template was handed in training."""
        self._was_templated = True
        return self._chat.history(chat_history, add_generation_prompt)

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """ln p of whole texts, in windows of at most `max_length` tokens.

        A window's prompt is what stands before its first scored token: the prefix token, or in a later window the
        tokens that it repeats.
        """
        windows, owners = [], []
        for owner, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            found = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, context_len=1)
            windows += [("", *make_disjoint_window(window)) for window in found]
            owners += [owner] * (len(windows) - len(owners))
        totals = [0.0] * len(requests)
        for owner, (score, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += score
        return totals

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continuations of contexts, up to the first stop string, each as its `generation_kwargs` say.

        Raises:
            HeftError: an entry of `generation_kwargs` is not known, or leaves no room for a context.
        """
        texts = [""] * len(requests)
        alike: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            alike.setdefault(repr(request.args[1]), []).append(number)
        decodings = [decoding_of(requests[numbers[0]].args[1]) for numbers in alike.values()]
        for decoding, numbers in zip(decodings, alike.values(), strict=True):
            prompts = self._prompts([requests[number].args[0] for number in numbers], decoding.max_new_tokens)
            for number, text in zip(numbers, self._generated(prompts, decoding), strict=True):
                texts[number] = text
        return texts

    def get_model_info(self) -> dict[str, Any]:
        """For the harness's report of an evaluation."""
        return {
            **self._opened.source,
            "model_num_parameters": self.model.num_parameters(),
            "model_dtype": str(self.model.dtype),
            "heft_version": __version__,
        }

    def _loglikelihood_tokens(self, requests, disable_tqdm: bool = False, **kwargs) -> list[tuple[float, bool]]:
        asked = questions_of([(context, continuation) for _, context, continuation in requests], self.max_length)
        if asked.cut:
            self._warn_of_cuts(asked.cut, len(asked.places))
        self._warn_of_short(question.prompt for question in asked.questions)
        return score_requests(self.model, self.tokenizer.pad_token_id, asked, self._opened.evaluation, self.reporter)

    def _prompts(self, contexts: Iterable[str], max_new_tokens: int) -> list[list[int]]:
        """Ids of contexts, cut at the left so that what is generated has room."""
        room = self.max_length - max_new_tokens
        if room < 1:
            raise HeftError(
                f"max_gen_toks {max_new_tokens:,} leaves no room for a context: the model reads {self.max_length:,}"
                " tokens; lower it (--gen_kwargs, or generation_kwargs of the task)"
            )
        whole = [self.tok_encode(context) or [self.prefix_token_id] for context in contexts]
        if cut := sum(len(ids) > room for ids in whole):
            self._warn_of_cuts(cut, len(whole))
        prompts = [ids[-room:] for ids in whole]
        self._warn_of_short(prompts)
        return prompts

    def _generated(self, prompts: Sequence[Sequence[int]], decoding: Decoding) -> list[str]:
        model, pad_id = self.model, self.tokenizer.pad_token_id
        alone = padding_matters(model, pad_id, max(map(len, prompts)) + decoding.max_new_tokens)

        def run(batch_size: int) -> list[str]:
            with self.reporter.progress(_GENERATION, len(prompts)):
                return generate_texts(
                    model,
                    self.tokenizer,
                    prompts,
                    batch_size=1 if alone else batch_size,
                    max_new_tokens=decoding.max_new_tokens,
                    stop=decoding.stop,
                    answer_end=self._answer_end,
                    on_batch=lambda done: self.reporter.step(_GENERATION, done, len(prompts)),
                    options=decoding.options,
                    special_tokens=False,
                )

        no_room = HeftError("the device's memory does not suffice for one text; lower max_length or max_gen_toks")
        return in_fitting_batches(run, model, self._opened.evaluation, self.reporter, _GENERATION, no_room)

    @property
    def _answer_end(self) -> int | None:
        """The token that answers were trained to end with, where it is the chat template's and not the tokenizer's."""
        was_trained = self._opened.task.get("chat_template") is True
        has_template = bool(getattr(self.tokenizer, "chat_template", None))
        return self._chat.end if has_template and (was_trained or self._was_templated) else None

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self.tokenizer, UNCUT)

    @cached_property
    def _chat(self) -> ChatTemplate:
        given, thinking = self._chat_args
        trained = self._opened.task.get("chat_template_args") or {}
        args = dict(trained if given is None else given)
        if thinking is not None:
            args["enable_thinking"] = thinking
        return ChatTemplate(self.tokenizer, args, self._opened.task.get("template_date"))

    def _warn_of_cuts(self, cut: int, count: int) -> None:
        self.reporter.warn(
            f"{cut:,} of {count:,} requests have more than the {self.max_length:,} tokens that the model reads, and are"
            " cut at the left"
        )

    def _warn_of_short(self, prompts: Iterable[Sequence[int]]) -> None:
        positions = positions_of(self.model)
        needed = max((each.shortest_prompt() for each in positions), default=0)
        prompts = list(prompts)
        if short := sum(len(prompt) < needed for prompt in prompts):
            names = first_of(sorted({str(each) for each in positions}), 3)
            self.reporter.warn(
                f"{short:,} of {len(prompts):,} contexts have fewer than the {needed} tokens that adapters act on"
                f" ({names}); there all tokens that the context has are edited"
            )
