"""Why an export would lose something, from settings alone: all reasons, before a model is loaded or a file written."""

from heft.exchange.pyreft_format import COMPONENTS, MODEL_TYPES
from heft.exchange.subject import Subject
from heft.reft.config import ReftConfig


def merging_refusals(subject: Subject) -> list[str]:
    """Why the LoRA adapters cannot become part of the base's weights."""
    found = []
    if subject.loras and subject.model.quantization:
        found.append(
            f"the base is loaded in {subject.model.quantization}: merged weights would be rounded again; use --to peft,"
            " whose adapter loads on the quantised base"
        )
    for name in subject.placed:
        found.append(
            f"{name} is a LoRA of some tokens ({subject.configs[name].positions}), and a merged weight acts on all"
        )
    for name, config in subject.loras.items():
        if config.trainable_token_indices:
            found.append(
                f"{name} replaces the embeddings of {len(config.trainable_token_indices)} trainable tokens, which"
                " merging adds to no weight; use --to peft"
            )
    with_dora = [name for name, config in subject.loras.items() if config.use_dora]
    if with_dora and len(subject.loras) > 1:
        found.append(
            f"{', '.join(with_dora)} uses DoRA, whose norms are those of the base's weights, and with"
            f" {', '.join(name for name in subject.loras if name not in with_dora) or 'another'} merged they would be"
            " others; choose one with --stages"
        )
    return found


def peft_refusals(subject: Subject, combines: bool, folds: bool) -> list[str]:
    """Why the adapters are no one LoRA in PEFT's format.

    `combines`: several parts are to become one; `folds`: ReFT adapters are among them.
    """
    found = []
    if not subject.loras and not folds:
        found.append("there is no LoRA adapter among what is exported")
    for name in subject.placed:
        if not subject.configs[name].invocation_tokens:
            found.append(
                f"{name} acts on a prompt's last tokens ({subject.configs[name].positions}), for which PEFT has no"
                " setting (its aLoRA looks for invocation tokens, and the prompts here end with no common ones)"
            )
        elif combines:
            found.append(f"{name} acts on some tokens only, so it does not combine with other parts into one LoRA")
    names = list(subject.configs)
    for name in subject.loras if not folds else ():
        before = [other for other in names[: names.index(name)] if other in subject.refts]
        joint = [other for other in subject.refts if _stage(subject, other) == _stage(subject, name)]
        for other in dict.fromkeys([*before, *joint]):
            how = "together with" if other in joint else "on top of"
            found.append(f"{name} was trained {how} the ReFT adapter {other}, without which it is no stage's model")
    for name, config in subject.refts.items() if folds else ():
        reason = folding_refusal(name, config)
        found += [] if reason is None else [reason]
    for name, config in subject.loras.items() if combines else ():
        other = [
            what
            for what, has in (
                ("DoRA", config.use_dora),
                ("trainable tokens", config.trainable_token_indices),
                ("experts' weights", config.target_parameters),
                ("an update of embeddings", subject.adapts_embeddings(name)),
            )
            if has
        ]
        if other:
            found.append(f"{name} has {' and '.join(other)}, which do not combine with other parts into one LoRA")
    return found


def pyreft_refusals(subject: Subject, model_type: str) -> list[str]:
    """Why the ReFT adapter cannot be said in pyreft's format."""
    found = merging_refusals(subject)
    if not subject.refts:
        found.append("there is no ReFT adapter among what is exported")
    if len(subject.refts) > 1:
        found.append(
            f"{', '.join(subject.refts)} are {len(subject.refts)} ReFT adapters, and pyreft's data module gives all"
            " interventions the same positions; choose one with --stages"
        )
    if model_type not in MODEL_TYPES:
        found.append(f"pyvene 0.1.8 knows no {model_type} models; it knows {', '.join(MODEL_TYPES)}")
    elif model_type in ("gpt2", "gpt_neo", "gpt_neox") and any(c.site != "block" for c in subject.refts.values()):
        found.append(f"pyvene's components of {model_type} are other outputs than heft's sites, except for block")
    for name, config in subject.refts.items():
        positions = config.edited_positions
        if positions.all_tokens or positions.onward:
            found.append(
                f"{name} edits {positions.in_words()}, and pyreft's positions are of the prompt: fN, lN, fN+lN"
            )
        if config.activation is not None:
            found.append(f"{name} has activation {config.activation}, which pyreft's files do not keep")
        if config.site not in COMPONENTS:
            found.append(f"{name} edits the site {config.site}, for which pyreft has no component")
    return found


def folding_refusal(name: str, config: ReftConfig) -> str | None:
    """Why an edit is no part of a linear layer, whatever the model; None where it may be."""
    if config.site == "block":
        return (
            f"{name} edits the output of blocks, the sum of what the block reads and what it adds, which is the output"
            " of no linear layer"
        )
    if not config.edited_positions.all_tokens:
        return f"{name} edits {config.edited_positions.in_words()}, and a weight acts on all tokens"
    if config.activation is not None:
        return f"{name} has activation {config.activation}, so it is not linear"
    return None


def _stage(subject: Subject, name: str) -> str:
    return next(entry.stage for entry in subject.manifest.adapters if entry.name == name)
