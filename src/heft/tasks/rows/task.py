"""The task `rows`: a person's own rows as examples."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from heft.errors import HeftError
from heft.tasks.base import Split, Task
from heft.tasks.choices import options_example, question_cloze
from heft.tasks.example import Example, content_hash, generation_example, without_answer
from heft.tasks.rows.cells import cell, has_cell
from heft.tasks.rows.chats import (
    Turn,
    as_turn,
    chat_examples,
    exchange_of,
    require_args_of_task,
    require_no_tools,
    system_of,
    turns_of,
)
from heft.tasks.rows.kinds import Kind, chat_column, kind_of_row, require_one_kind, unknown_row
from heft.tasks.rows.labels import label_text, labels_found, name_list, named, names_hint
from heft.tasks.rows.own_choices import choices_in_column, choices_in_columns, in_drawn_order
from heft.tasks.rows.settings import EVAL_SHARE, LABELS_FOUND, RowsSettings
from heft.tasks.rows.share import set_aside
from heft.tasks.rows.template import Template, text_of_column
from heft.tasks.table import Row, locate, read_table
from heft.text.folding import folded
from heft.text.listing import suggest


class Rows(Task):
    """The settings, else a row's keys, tell its kind; other columns are ignored.

    Generated answers are correct when equal to the row's, or to what the tokenizer makes of it, but for whitespace at
    the ends. Choices are scored by likelihood.
    """

    settings_type = RowsSettings
    answers_are_texts = True
    settings: RowsSettings

    @property
    def stop(self) -> tuple[str, ...]:
        return tuple(self.settings.stop)

    def rows(self, split: Split) -> Iterator[Row]:
        settings = self.settings
        if settings.eval is None and settings.eval_split is None:
            self._require_usable(self._train_rows, "train")
            return iter(self._part(self._train_rows, split))
        if split == "train":
            rows = self._train_rows
        else:
            source = settings.train if settings.eval is None else settings.eval
            rows = read_table(source, split=settings.eval_split, encoding=settings.encoding)
        self._require_usable(rows, split)
        return iter(rows)

    def row_faults(self, row: dict) -> list[str]:
        return [unknown_row(row)] if kind_of_row(row, self.settings) is None else []

    def example(self, row: dict) -> Example:
        """The example of a row, of a chat the last; see `examples`."""
        return self.examples(row)[-1]

    def examples(self, row: dict) -> Sequence[Example]:
        settings = self.settings
        match kind_of_row(row, settings):
            case Kind.CHAT:
                return chat_examples(self.name, _turns(row, settings), settings.system, settings.train_on)
            case Kind.PAIR:
                made = self._completion(text_of_column(row, "prompt"), text_of_column(row, "completion"))
            case Kind.QUESTION:
                made = self._question(row)
            case Kind.ALPACA:
                return [self._alpaca(row)]
            case _:
                made = self._templated(row)
        return [self._with_system(made)]

    @property
    def answer_field(self) -> str | None:
        return self.settings.answer

    def given_answer(self, row: dict) -> Any:
        name = self.settings.answer
        return cell(row, name) if name is not None and has_cell(row, name) else None

    @property
    def common_choices(self) -> tuple[str, ...] | None:
        return None if self.labels is None else tuple(self.labels)

    def prompted(self, text: str) -> Example:
        """A prompt as it stands; where the template has one column and the text does not fit it, as that column."""
        if self.settings.prompt is None:
            return self._with_system(generation_example(self.name, text.rstrip()))
        template = Template(self.settings.prompt)
        row = {template.columns[0]: text}
        if len(set(template.columns)) == 1 and not template.fits(text) and not self.question_faults(row):
            try:
                return self.question(row)
            except HeftError:
                pass  # the row needs more than the prompt's column, such as its choices
        if self.labels is None:
            return self._with_system(generation_example(self.name, text.rstrip()))
        return self._with_system(without_answer(self._chosen(text, text, self.labels, 0)))

    def missed_form(self, text: str) -> str | None:
        template = None if self.settings.prompt is None else Template(self.settings.prompt)
        is_whole = template is None or len(set(template.columns)) == 1 or template.fits(text)
        return None if is_whole else template.text

    def question_faults(self, row: dict) -> list[str]:
        return self.row_faults(row)

    def question(self, row: dict) -> Example:
        return without_answer(self._with_any_answer(row))

    def _with_any_answer(self, row: dict) -> Example:
        """The example of a row whose answer is not looked at."""
        settings = self.settings
        match kind_of_row(row, settings):
            case Kind.CHAT:
                turns = _turns(row, settings, answered=False)
                turns = turns[:-1] if turns[-1][0] == "assistant" else turns
                return chat_examples(self.name, [*turns, ("assistant", "?")], settings.system, "last")[0]
            case Kind.TEMPLATE if self.labels is not None and not self._choice_columns(row):
                return self._labelled(row, self.labels[0])
            case Kind.TEMPLATE if settings.choices is not None:
                return self._with_system(self._templated(row, answered=False))
            case Kind.TEMPLATE:
                return self.example({**row, settings.answer: "?"})
            case Kind.QUESTION:
                return self._with_system(self._question(row, answered=False))
            case Kind.ALPACA:
                return self.example({**row, "output": "?"})
            case _:
                return self.example({**row, "completion": "?"})

    def setting_faults(self) -> dict[str, str]:
        """Columns that no row has; nothing is looked for on the Hub, nor said of rows that cannot be read."""
        settings = self.settings
        if isinstance(settings.train, str) and locate(settings.train) is None:
            return {}
        try:
            there = dict.fromkeys(name for _, row in self._train_rows for name in row)
        except HeftError:
            return {}  # said where rows are read
        named = {"prompt": Template(settings.prompt).columns if settings.prompt else []}
        named |= {key: [value] for key in ("answer", "messages") if (value := getattr(settings, key)) is not None}
        if isinstance(settings.choices, str) and settings.choices != LABELS_FOUND:
            named["choices"] = [settings.choices]
        faults = {}
        for key, names in named.items():
            missing = [name for name in names if not any(has_cell(row, name) for _, row in self._train_rows)]
            if missing:
                close = suggest(missing[0], list(there))
                faults[key] = f"there is no column {missing[0]!r} in {_short(settings.train)}{close}"
        return faults

    def resolved(self) -> RowsSettings:
        """The settings with absolute paths, and the labels that the training rows have in place of the word for it."""
        settings, labels = self.settings, self.labels
        found = {} if labels is None or settings.choices == labels else {"choices": labels}
        return settings.model_copy(update=settings.located(dict(settings)) | found)

    def prediction(self, text: str) -> str:
        return text.strip()

    @cached_property
    def labels(self) -> list[str] | None:
        """The labels that answers are one of; None where there are none, or every row has its own choices.

        Raises:
            HeftError: the training rows cannot be read, or have no labels.
        """
        settings = self.settings
        if isinstance(settings.choices, list):
            return None if self._choice_columns({}) else [choice.strip() for choice in settings.choices]
        if settings.choices == LABELS_FOUND and not self._has_lists(LABELS_FOUND):
            return labels_found(settings, [row for _, row in self._train_rows])
        if settings.choices is None and settings.label_names is not None:
            return name_list(settings.label_names)
        return None

    def _choice_columns(self, row: dict) -> list[str]:
        """The columns that hold one choice each; empty where `choices` names no columns of this row or the first."""
        choices = self.settings.choices
        if not isinstance(choices, list):
            return []
        return choices if any(all(map(partial(has_cell, each), choices)) for each in (row, self._first_row)) else []

    @cached_property
    def _train_rows(self) -> list[Row]:
        return read_table(self.settings.train, split=self.settings.train_split, encoding=self.settings.encoding)

    @cached_property
    def _first_row(self) -> dict:
        try:
            return self._train_rows[0][1]
        except HeftError:
            return {}

    def _has_lists(self, column: str) -> bool:
        return isinstance(self._first_row.get(column), list | dict)

    def _part(self, rows: list[Row], split: Split) -> list[Row]:
        """The rows of a split where one table has both. Rows that cannot be used are trained on, and so reported; where
        none can be used, either split has all."""
        known = [self._known(row) for _, row in rows]
        usable = [number for number, pair in enumerate(known) if pair is not None]
        if not usable:
            return rows
        prompts, labels = [known[i][0] for i in usable], [known[i][1] for i in usable]
        if len(set(prompts)) < 2 and len(usable) == len(rows):
            raise HeftError(
                f"task.train has {len(rows):,} rows of one prompt, which leaves none to evaluate on; give task.eval"
            )
        share = self.settings.eval_share or EVAL_SHARE
        chosen = set_aside(prompts, labels, share, self.settings.sample_seed) if len(set(prompts)) > 1 else set()
        aside = {usable[i] for i in chosen}
        return [row for number, row in enumerate(rows) if (number in aside) == (split == "eval")]

    def _known(self, row: dict) -> tuple[str, str | None] | None:
        """What rows of one prompt share, and the label; None where the row cannot be used."""
        try:
            made = [] if self.row_faults(row) else self.examples(row)
        except HeftError:
            return None
        if not made:
            return None
        question, options, answer = made[0].asked
        label = answer.strip() if self.labels is not None else None
        return content_hash(folded(question), () if self.labels else sorted(map(folded, options))), label

    def _require_usable(self, rows: Sequence[Row], split: Split) -> None:
        settings = self.settings
        if settings.prompt is not None and settings.answer is None:
            raise HeftError(f"task.answer is missing; expected one of the columns {', '.join(rows[0][1])}")
        source = settings.eval if split == "eval" and settings.eval is not None else settings.train
        require_one_kind(rows, settings, source if isinstance(source, str) else f"task.{split}")
        chats = [place for place, row in rows if kind_of_row(row, settings) is Kind.CHAT]
        if settings.train_on == "all" and not chats:
            raise HeftError(f"task.train_on: all has no effect, since {rows[0][0]} is no chat; remove it")
        if chats and not settings.chat_template:
            raise HeftError(
                f"{chats[0]}: rows of messages are written as the model's chat template says; set"
                " task.chat_template: true"
            )

    def _templated(self, row: dict, answered: bool = True) -> Example:
        """The example of a row whose prompt is a template; unless `answered`, its right choice is not looked at."""
        settings = self.settings
        prompt = Template(settings.prompt).fill(row)
        columns = self._choice_columns(row)
        if columns:
            own = choices_in_columns(row, columns)
            if settings.answer in columns:
                own = in_drawn_order(own, prompt)
                gold = own.names.index(settings.answer) if answered else None
                return self._chosen(prompt, prompt, own.texts, gold)
        elif self.labels is not None:
            return self._labelled(row, label_text(settings, row))
        elif settings.choices is not None:
            own = choices_in_column(row, settings.choices)
        else:
            return self._completion(prompt, text_of_column(row, settings.answer))
        value = named(settings, cell(row, settings.answer)) if answered else None
        gold = own.gold(value, settings.label_names is not None) if answered else None
        return self._chosen(prompt, prompt, own.texts, gold)

    def _labelled(self, row: dict, label: str) -> Example:
        """The example of a row that has this label."""
        if label not in self.labels:
            raise HeftError(
                f"{self.settings.answer} must be one of the {len(self.labels)} labels"
                f" {', '.join(self.labels[:10])}{', …' if len(self.labels) > 10 else ''}; got"
                f" {label!r}{names_hint(label, self.labels)}"
            )
        prompt = Template(self.settings.prompt).fill(row)
        return self._with_system(self._chosen(prompt, prompt, self.labels, self.labels.index(label)))

    def _question(self, row: dict, answered: bool = True) -> Example:
        """The example of a question with choices; unless `answered`, the right one is not looked at."""
        question = text_of_column(row, "question").strip()
        for key in ("choices", "answer") if answered else ("choices",):
            if key not in row:
                raise HeftError(f"{key} is missing")
        own = choices_in_column(row, "choices")
        gold = own.gold(row["answer"]) if answered else None
        return self._chosen(f"Question: {question}", question_cloze(question), own.texts, gold)

    def _chosen(self, head: str, cloze_prompt: str, options: Sequence[str], gold: int | None) -> Example:
        return options_example(
            self.name, self.settings.format, head.rstrip(), cloze_prompt.rstrip(), list(options), gold
        )

    def _completion(self, prompt: str, completion: str) -> Example:
        """Whitespace between the two stays, as part of the completion; a space where there is none."""
        stem = prompt.rstrip()
        between = prompt[len(stem) :] + completion[: len(completion) - len(completion.lstrip())]
        answer = (between or " ") + completion.strip()
        return generation_example(self.name, stem, answer, completion.strip(), turn=as_turn(completion))

    def _alpaca(self, row: dict) -> Example:
        """Instruction and input, with Alpaca's own headings where no chat template separates them from the output."""
        told = [text_of_column(row, "instruction").strip()]
        if row.get("input") is not None and str(row["input"]).strip():
            told.append(text_of_column(row, "input").strip())
        output, system = text_of_column(row, "output"), system_of(row) or self.settings.system
        if not self.settings.chat_template:
            if system or row.get("history"):
                raise HeftError("system and history need task.chat_template: true")
            headed = [f"### {name}:\n{text}" for name, text in zip(("Instruction", "Input"), told, strict=False)]
            return self._completion("\n\n".join([*headed, "### Response:"]) + "\n", output)
        turns = [(role, text) for pair in row.get("history") or [] for role, text in exchange_of(pair)]
        turns = [*turns, ("user", "\n\n".join(told)), ("assistant", output)]
        return chat_examples(self.name, turns, system, "last")[0]

    def _with_system(self, example: Example) -> Example:
        if self.settings.system is None or example.turns is not None:
            return example
        return replace(example, turns=(("system", self.settings.system), ("user", example.prompt)))


def _short(source: object) -> str:
    return source if isinstance(source, str) else "the rows"


def _turns(row: dict, settings: RowsSettings, answered: bool = True) -> list[Turn]:
    """The turns of a chat; prompts and completions of messages are joined, if there is to be an answer."""
    require_no_tools(row)
    require_args_of_task(row, settings.chat_template_args)
    column = chat_column(row, settings)
    if column is None:
        both = [row.get("prompt"), row.get("completion") if answered else []]
        if not all(isinstance(part, list) for part in both):
            raise HeftError("prompt and completion must both be lists of messages, or both text")
        turns = turns_of(both[0] + both[1], "prompt and completion")
    else:
        turns = turns_of(cell(row, column), column)
    system = system_of(row)
    if system is not None and turns[0][0] != "system":
        turns = [Turn("system", system), *turns]
    return turns
