"""The probe: rows of the adapter's own task where they can be read, else made-up ones; and its logits."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from heft.data.encode import EncodedExample
from heft.errors import HeftError
from heft.verify.logits import COLUMNS, right_pad, row_logits
from heft.verify.subject import STRETCH, make_probe, open_subject


def altered(adapter, folder, **task):
    """A copy of the directory whose heft.json names another task."""
    shutil.copytree(adapter, folder / "adapter")
    path = folder / "adapter" / "heft.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"task": task}))
    return folder / "adapter"


def test_the_probe_is_of_the_adapters_own_task(subject):
    assert subject.probe.source == "rows of the adapter's own task, whereabouts"
    assert all("went to the" in row.example.prompt for row in subject.probe.rows)
    assert len(subject.probe.rows) == 3
    assert subject.probe.lengths == sorted(subject.probe.lengths)
    assert max(subject.probe.lengths) <= STRETCH * min(subject.probe.lengths)


def test_rows_of_a_file_of_ones_own_are_read_and_short_ones_of_unlike_length_taken(adapters, tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": "x" * n, "completion": "yes"}) for n in (90, 20, 14, 26, 17)))
    task = {"name": "rows", "train": str(path), "eval": str(path)}
    subject = open_subject(altered(adapters("last"), tmp_path, **task), rows=3)
    assert subject.probe.source == "rows of the adapter's own task, rows"
    assert [len(row.prompt) for row in subject.probe.rows] == [14, 17, 20]


def test_rows_of_one_length_are_made_unlike_so_that_a_batch_has_padding(adapters, tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": letter * 20, "completion": "yes"}) for letter in "abcd"))
    task = {"name": "rows", "train": str(path), "eval": str(path)}
    subject = open_subject(altered(adapters("last"), tmp_path, **task), rows=4)
    assert [len(row.prompt) for row in subject.probe.rows] == [14, 16, 18, 20]


@pytest.mark.parametrize(
    ("task", "why"),
    [
        ({"name": "piqa", "source": "nowhere"}, "source 'nowhere' is not a folder"),
        ({"name": "my_own"}, "my_own"),
        ({"name": "whereabouts", "eval_limit": 1}, "has 1 row to compare on"),
    ],
)
def test_rows_are_made_up_where_the_tasks_own_cannot_be_read_and_why_is_said(adapters, tmp_path, task, why):
    subject = open_subject(altered(adapters("last"), tmp_path, **task), rows=2)
    assert subject.probe.source.startswith("made-up rows, since the adapter's own cannot be read: ")
    assert why in subject.probe.source
    assert len(subject.probe.rows) == 2


def test_another_base_is_refused_before_anything_is_compared(adapters, tmp_path):
    directory = altered(adapters("last"), tmp_path, name="whereabouts")
    path = directory / "heft.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_fingerprint": "0" * 16}))
    with pytest.raises(HeftError, match="it is another model"):
        open_subject(directory)


def test_logits_are_those_after_each_rows_last_tokens_on_whichever_side_it_is_padded():
    model = tiny.tiny_model()
    rows = [EncodedExample(None, tuple(range(5, 5 + n)), (), (40, 41), 0) for n in (20, 30)]
    with torch.no_grad():
        alone = [model(torch.tensor([row.prompt + row.answer])).logits[0, -COLUMNS:] for row in rows]
    for side in ("left", "right"):
        logits = row_logits(model, rows, pad_id=0, side=side)
        assert logits.shape == (2, COLUMNS, 259)
        assert torch.allclose(logits, torch.stack(alone), atol=1e-4)


def test_right_padding_leaves_real_tokens_first_and_counts_positions_over_them():
    padded = right_pad([[7, 8, 9], [5]], pad_id=0)
    assert padded["input_ids"].tolist() == [[7, 8, 9], [5, 0, 0]]
    assert padded["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert padded["position_ids"].tolist()[0] == [0, 1, 2]
    assert padded["position_ids"].tolist()[1][0] == 0


def test_peft_sees_nothing_that_hefts_own_reader_refuses(adapters, tmp_path, monkeypatch):
    def seen(*given):
        raise AssertionError("PEFT was handed the folder")

    directory = tiny.forget_hashes(altered(adapters("last"), tmp_path, name="whereabouts"))
    path = directory / "coarse" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"r": 2**19}))
    monkeypatch.setattr("heft.verify.logits.PeftModel.from_pretrained", seen)
    with pytest.raises(HeftError, match="coarse"):
        open_subject(directory)


def test_code_that_comes_with_a_base_runs_only_where_the_person_says_so(adapters, tmp_path):
    directory = altered(adapters("last"), tmp_path, name="whereabouts")
    path = directory / "heft.json"
    content = json.loads(path.read_text())
    content["model"] |= {"name": str(tmp_path / "base"), "trust_remote_code": True}
    path.write_text(json.dumps(content))
    with pytest.raises(HeftError, match="--trust-remote-code"):
        open_subject(directory)
    with pytest.raises(HeftError, match="cannot be loaded"):  # it was tried: there is no such base
        open_subject(directory, trust_remote_code=True)


def test_a_rotation_of_less_than_full_rank_is_said_in_words(adapters, tmp_path):
    directory = tiny.forget_hashes(altered(adapters("last"), tmp_path, name="whereabouts"))
    file = directory / "fine" / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors[next(name for name in tensors if "rotation" in name)].zero_()
    save_file(tensors, file)
    with pytest.raises(HeftError, match="rotation has less than full rank, .*: fine at model.layers"):
        open_subject(directory, rows=2)


def test_a_chat_template_that_is_no_switch_is_not_taken_for_one_in_made_up_rows():
    tokenizer = tiny.byte_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    manifest = SimpleNamespace(task={"name": "my_own", "chat_template": "false"})
    assert "<user>" not in tokenizer.decode(make_probe(tokenizer, manifest, [], 2).rows[0].prompt)
    manifest.task["chat_template"] = True
    assert "<user>" in tokenizer.decode(make_probe(tokenizer, manifest, [], 2).rows[0].prompt)
