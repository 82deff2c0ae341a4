"""Saved LoRA with positions: heft's own form, and PEFT's aLoRA where all prompts end alike."""

import json

import pytest
import torch
from masked import shaken
from peft import LoraConfig, PeftModel, get_peft_model

import tiny
from heft.adapters.attach import attach
from heft.adapters.directory import attach_saved, save_adapter
from heft.adapters.foreign import read_foreign_config
from heft.adapters.safety import read_config
from heft.alora import ActivatedLoraConfig
from heft.data.encode import Encoder
from heft.data.tails import common_tail
from heft.errors import HeftError
from heft.recipe.recipe import LoraStage
from heft.run.tails import note_tails
from heft.tasks.example import generation_example

STAGE = LoraStage(method="lora", rank=3, positions="l4", steps=1)
ENCODE = Encoder(tiny.byte_tokenizer(), 256)


def rows_of(*texts):
    return ENCODE([generation_example("t", prompt, answer, answer) for prompt, answer in texts])


ALIKE = rows_of(("one? Answer:", " yes"), ("another, longer one? Answer:", " no it is not"), ("A? Answer:", " 1"))
UNLIKE = rows_of(("one? Answer:", " yes"), ("another!", " no"))


def trained(rows):
    model = tiny.tiny_model()
    torch.manual_seed(0)
    attached = attach(model, "coarse", STAGE)
    shaken(model)
    note_tails(model, attached.names, rows)
    return model.eval()


def batch_of(rows, side="left"):
    width = max(row.length for row in rows)
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        own = slice(width - row.length, width) if side == "left" else slice(0, row.length)
        ids[i, own], mask[i, own] = torch.tensor(row.prompt + row.answer), 1
    return {"input_ids": ids, "attention_mask": mask}


def test_prompts_that_end_alike_are_saved_as_pefts_alora_and_others_as_hefts(tmp_path):
    for rows, kind, has in ((ALIKE, "LORA", "alora_invocation_tokens"), (UNLIKE, "ACTIVATED_LORA", "positions")):
        folder = tmp_path / kind
        save_adapter(folder, trained(rows), "coarse")
        values = json.loads((folder / "adapter_config.json").read_text())
        assert values["peft_type"] == kind
        assert values[has] == (list(ALIKE[0].prompt[-4:]) if kind == "LORA" else "l4+")


@pytest.mark.parametrize("rows", [ALIKE, UNLIKE], ids=["alora", "activated"])
def test_either_form_loads_to_the_bit(tmp_path, rows):
    model = trained(rows)
    save_adapter(tmp_path / "coarse", model, "coarse")
    again = tiny.tiny_model()
    attach_saved(again, tmp_path / "coarse", "coarse")
    inputs, lengths = batch_of(rows), [len(row.prompt) for row in rows]
    assert torch.equal(again(**inputs, prompt_lengths=lengths).logits, model(**inputs, prompt_lengths=lengths).logits)
    assert again.peft_config["coarse"].invocation_tokens == model.peft_config["coarse"].invocation_tokens
    save_adapter(tmp_path / "again", again, "coarse")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "coarse" / name).read_bytes()


def test_pefts_own_alora_gives_the_logits_and_the_texts_that_heft_gives(tmp_path):
    model = trained(ALIKE)
    save_adapter(tmp_path / "coarse", model, "coarse")
    theirs = PeftModel.from_pretrained(tiny.tiny_model(), tmp_path / "coarse").eval()
    assert type(theirs.peft_config["default"]) is LoraConfig
    inputs = batch_of(ALIKE)
    mine = model(**inputs, prompt_lengths=[len(row.prompt) for row in ALIKE]).logits
    real = inputs["attention_mask"].bool()
    assert torch.allclose(theirs(**inputs).logits[real], mine[real], atol=1e-5)
    base = tiny.tiny_model()
    for row in ALIKE:
        prompt = torch.tensor([row.prompt])
        options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
        made = theirs.generate(input_ids=prompt, **options)
        assert made.tolist() == model.generate(prompt, **options).tolist()
        assert made.tolist() != base.generate(prompt, **options).tolist()


def test_what_peft_saved_as_alora_starts_a_stage_as_the_same_positions(tmp_path):
    tokens = list(ALIKE[0].prompt[-3:])
    config = LoraConfig(r=2, target_modules=["q_proj"], alora_invocation_tokens=tokens, task_type="CAUSAL_LM")
    get_peft_model(tiny.tiny_model(), config).save_pretrained(tmp_path)
    for read in (read_config, lambda path: read_foreign_config(path, tmp_path / "adapter_model.safetensors")):
        found = read(tmp_path / "adapter_config.json")
        assert isinstance(found, ActivatedLoraConfig)
        assert (found.positions, found.invocation_tokens) == ("l3+", tokens)


@pytest.mark.parametrize(
    "rows",
    [
        rows_of(("one? Answer:", " yes"), ("Answer: x", " no")),
        rows_of(("one? Answer:", " wer: yes swer: no")),  # an answer has the tail again
        rows_of(("er:", " no")),
        [],
    ],
)
def test_a_tail_that_does_not_tell_where_a_prompt_ends_is_none(rows):
    assert common_tail(rows, 5) is None


def test_a_tail_is_the_last_tokens_of_every_prompt():
    assert tiny.byte_tokenizer().decode(common_tail(ALIKE, 4)) == "wer:"


def test_a_config_of_other_tokens_than_positions_is_refused(tmp_path):
    save_adapter(tmp_path / "coarse", trained(UNLIKE), "coarse")
    path = tmp_path / "coarse" / "adapter_config.json"
    for change in ({"positions": "f1"}, {"positions": "l4", "invocation_tokens": [1]}, {"use_dora": True}):
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        with pytest.raises(HeftError):
            read_config(path)
