"""Every way of decoding gives the tokens of greedy decoding, or is refused; and a pass that cannot be placed is."""

import threading

import pytest
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, pipeline

from reft.support import edited_tokens, logits, token_ids, with_reft
from tiny import byte_tokenizer, tiny_model

NEW = 12


def repetitive(rows: int = 1) -> dict[str, torch.Tensor]:
    """A prompt in which n-grams return, so that prompt lookup has something to propose."""
    ids = token_ids(rows, 4).repeat(1, 4)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def greedy(model, inputs, **options) -> torch.Tensor:
    return model.generate(**inputs, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, pad_token_id=0, **options)


def passes_of_generation(model) -> list[int]:
    """Receives the number of tokens of each pass from here on."""
    widths = []
    body = model.get_base_model().model
    body.register_forward_pre_hook(
        lambda _, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    return widths


@pytest.mark.parametrize("positions", ["l2", "f2+l2", "all", "l2+", "lora l2"])
def test_prompt_lookup_decoding_gives_the_tokens_of_greedy_decoding(positions):
    model = with_reft(positions=positions)
    expected = greedy(model, repetitive())
    widths = passes_of_generation(model)
    assert torch.equal(greedy(model, repetitive(), prompt_lookup_num_tokens=4), expected)
    assert widths[0] > 16, "the first pass holds proposed tokens behind the prompt"


@pytest.mark.parametrize("positions", ["l2", "f2+l2", "all", "l2+", "lora l2"])
@pytest.mark.parametrize("assistant_has_reft", [False, True])
def test_assisted_decoding_gives_the_tokens_of_greedy_decoding(positions, assistant_has_reft):
    model = with_reft(positions=positions)
    expected = greedy(model, repetitive())
    widths = passes_of_generation(model)
    assistant = with_reft(positions=positions) if assistant_has_reft else tiny_model()
    assert torch.equal(greedy(model, repetitive(), assistant_model=assistant), expected)
    assert max(widths[1:]) > 1, "a verifying pass holds several tokens on the cache"
    assert any(expected[0, 16:].tolist())


def test_an_assistant_with_the_same_adapter_is_believed_more_often_than_one_without():
    passes = []
    for assistant in (with_reft(positions="l2"), tiny_model()):
        model = with_reft(positions="l2")
        widths = passes_of_generation(model)
        greedy(model, repetitive(), assistant_model=assistant)
        passes.append(len(widths))
    assert passes[0] < passes[1] <= NEW


@pytest.mark.parametrize("positions", ["l2", "f1+l1", "lora l2"])
def test_continuous_batching_is_refused_in_words_for_prompt_positions(positions):
    model = with_reft(positions=positions)
    with pytest.raises(ValueError, match=r"continuous batching \(generate_batch\) does not tell"):
        model.generate_batch(inputs=[[5, 6, 7], [8, 9]], max_new_tokens=3)


def test_continuous_batching_of_edits_of_all_tokens_gives_the_greedy_tokens():
    model, prompts = with_reft(positions="all"), [[5, 6, 7, 8, 9], [10, 11, 12]]
    config = GenerationConfig(max_new_tokens=6, do_sample=False, eos_token_id=2, pad_token_id=0)
    small = ContinuousBatchingConfig(num_blocks=8, max_batch_tokens=64)
    together = model.get_base_model().generate_batch(
        prompts, generation_config=config, continuous_batching_config=small, progress_bar=False
    )
    for prompt, found in zip(prompts, together.values(), strict=True):
        alone = model.generate(torch.tensor([prompt]), generation_config=config)[0, len(prompt) :]
        assert found.generated_tokens == alone.tolist()


def test_taking_reft_off_gives_continuous_batching_back():
    model = with_reft(positions="l2")
    base = model.unload()
    assert "init_continuous_batching" not in vars(base)


@pytest.mark.parametrize("positions", ["l2", "f2+l2", "all", "l2+", "lora l2"])
def test_a_pipeline_gives_the_same_text_in_any_batch_size(positions):
    tokenizer, model = byte_tokenizer(), with_reft(positions=positions)
    texts = ["Who is it?", "Where has Mary gone today?", "No", "Is it late already?"]
    run = pipeline("text-generation", model=model, tokenizer=tokenizer, device="cpu")
    answers = []
    for batch_size in (1, 2, 4):
        out = run(texts, batch_size=batch_size, max_new_tokens=NEW, do_sample=False, return_full_text=False)
        answers.append([row[0]["generated_text"] for row in out])
    assert answers[0] == answers[1] == answers[2]
    for text, answer in zip(texts, answers[0], strict=True):
        alone = model.generate(**tokenizer(text, return_tensors="pt"), max_new_tokens=NEW, do_sample=False)
        width = len(tokenizer(text)["input_ids"])
        assert answer == tokenizer.decode(alone[0, width:], skip_special_tokens=True)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("padding", [0, 3])
def test_rows_that_look_padded_without_a_mask_are_refused_and_edited_right_with_one(side, padding):
    """As lm-eval's HFLM pads: rows of unlike length, zeros at the end, no attention mask."""
    model = with_reft(tiny_model(pad_token_id=3), layers=[0], positions="f1+l2")
    ids = token_ids(2, 8).clamp(min=4)
    place = slice(0, 3) if side == "left" else slice(5, 8)
    ids[1, place] = padding
    with pytest.raises(ValueError, match="there is no attention_mask"):
        model(input_ids=ids)
    mask = torch.ones_like(ids)
    mask[1, place] = 0
    shift = 3 if side == "left" else 0
    assert edited_tokens(model, ids, attention_mask=mask) == [{0, 6, 7}, {shift, shift + 3, shift + 4}]
    assert logits(with_reft(positions="all"), ids).shape == (2, 8, 259)


def test_rows_that_all_begin_with_the_same_token_are_not_taken_for_padded():
    ids = token_ids(2, 8)
    ids[:, 0] = 0
    assert edited_tokens(with_reft(layers=[0], positions="l2"), ids) == [{6, 7}, {6, 7}]


def test_a_training_pass_without_known_prompts_is_refused_before_anything_runs():
    model, ids = with_reft(positions="l2").train(), token_ids(2, 8)
    ran = []
    model.get_base_model().model.layers[0].register_forward_pre_hook(lambda *_: ran.append(1))
    with pytest.raises(ValueError, match="neither labels nor prompt_lengths reach the model"):
        model(input_ids=ids)
    assert not ran
    with model.disable_adapter():
        model(input_ids=ids)
    model(input_ids=ids, prompt_lengths=[6, 6])
    assert with_reft(positions="all").train()(input_ids=ids).logits.shape == (2, 8, 259)


def test_generation_in_training_mode_keeps_its_prompts():
    model, inputs = with_reft(positions="l2"), repetitive(2)
    expected = greedy(model, inputs)
    assert torch.equal(greedy(model.train(), inputs), expected)


def test_a_call_from_a_second_thread_is_refused_and_the_first_is_not_disturbed():
    model, ids = with_reft(positions="l2"), token_ids(2, 8)
    expected, errors = logits(model, ids), []

    def call():
        try:
            logits(model, ids)
        except ValueError as error:
            errors.append(str(error))

    def meanwhile(*_):
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()

    handle = model.get_base_model().model.layers[1].register_forward_pre_hook(meanwhile)
    assert torch.equal(logits(model, ids), expected)
    handle.remove()
    assert len(errors) == 1
    assert "put a lock around the calls" in errors[0]
    assert torch.equal(logits(model, ids), expected)


@pytest.mark.parametrize("call", ["forward", "generate"])
@pytest.mark.parametrize("positions", ["l2", "all"])
def test_a_call_from_a_second_thread_between_two_passes_of_generate_disturbs_nothing(positions, call):
    model, ids = with_reft(positions=positions), token_ids(1, 9, seed=5)
    calls = {"forward": lambda: logits(model, ids), "generate": lambda: greedy(model, {"input_ids": ids})}
    expected, alone, found = greedy(model, repetitive()), calls[call](), []
    threads = []

    def meanwhile(_ids, scores):
        if not threads:
            threads.append(threading.Thread(target=lambda: found.append(calls[call]())))
            threads[0].start()
            threads[0].join()
        return scores

    assert torch.equal(greedy(model, repetitive(), logits_processor=[meanwhile]), expected)
    assert torch.equal(found[0], alone)
    assert torch.equal(calls[call](), alone)


def test_a_replica_of_data_parallel_is_refused_and_says_what_to_use():
    replica = with_reft().get_base_model()._replicate_for_data_parallel()
    with pytest.raises(ValueError, match="a process for each with torchrun"):
        replica(input_ids=token_ids(1, 4))
