"""What each token of a text is of it, with tokenizers of the kinds that models come with."""

from types import SimpleNamespace

import pytest
from transformers.convert_slow_tokenizer import bytes_to_unicode

from heft.builtin import byte_tokenizer
from heft.models.endings import text_of
from heft.runtime.reporter import Reporter
from heft.serving.http.schemas import CompletionRequest
from heft.serving.http.texts import _Legacy
from heft.serving.http.wording import Wording
from heft.serving.limits import Limits
from heft.serving.remote import RemoteModel
from heft.serving.requests import Chosen, Finished, Piece
from heft.serving.texts import GrowingText, Spelling
from tokenizers_made import byte_level_style, llama_2_style, metaspace_style

TEXT = "The capital is Havana. no é €, yes"
KINDS = {
    "llama 2": llama_2_style,
    "metaspace": metaspace_style,
    "metaspace, first": lambda: metaspace_style("first"),
    "byte level": byte_level_style,
}


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_together_the_text_and_stand_where_they_say(kind):
    tokenizer = KINDS[kind]()
    spelling, ids = Spelling(tokenizer), tokenizer(TEXT)["input_ids"]
    found = [(*spelling.of(token), spelling.add(token)) for token in ids]
    assert found[0] == ("<s>", None, 0)
    assert b"".join(own for _, own, _ in found[1:]).decode() == text_of(tokenizer, ids, ()) == TEXT
    whole = [(text, offset) for text, _, offset in found[1:] if "\ufffd" not in text]
    assert len(whole) > 8
    assert all(TEXT[offset : offset + len(text)] == text for text, offset in whole)
    assert len(found[1:]) - len(whole) == 5, "two bytes of é and three of €"


def test_a_character_that_is_never_finished_is_one_before_what_follows():
    tokenizer = byte_tokenizer()
    text = b"a\xe2\x82b\xc3\xc3\xa9c"
    spelling, ids = Spelling(tokenizer), [*map(tokenizer.convert_tokens_to_ids, map(bytes_to_unicode().get, text))]
    assert tokenizer.decode(ids) == "a\ufffdb\ufffdéc"
    assert [spelling.add(token) for token in ids] == [0, 1, 1, 2, 3, 4, 4, 5]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cut", [4, 5, 6])
def test_an_echoed_prompt_and_the_text_behind_it_are_those_of_their_tokens(kind, cut):
    tokenizer = KINDS[kind]()
    ids = tokenizer(TEXT)["input_ids"]
    wording = Wording(SimpleNamespace(tokenizer=tokenizer), Limits())
    body = CompletionRequest(model="m", prompt=ids[:cut], echo=True, logprobs=0)
    form = _Legacy(wording, body, [tuple(ids[:cut])])
    form.heads = [[Chosen(token, -1.0) for token in ids[1:cut]]]
    growing = GrowingText(tokenizer, (), (), wording.follows(ids[:cut]))
    for token in ids[cut:]:
        growing.add(token)
    piece = Piece(growing.take(is_last=True), tuple(Chosen(token, -1.0) for token in ids[cut:]))
    (found,) = form.whole([], [[piece, Finished("length")]])["choices"]
    assert found["text"] == TEXT
    logprobs = found["logprobs"]
    places = list(zip(logprobs["tokens"], logprobs["text_offset"], strict=True))[1:]
    assert all(TEXT[at : at + len(text)] == text for text, at in places if "\ufffd" not in text)


@pytest.mark.parametrize("kind", KINDS)
def test_a_completion_goes_on_where_its_prompt_ends_and_a_turn_of_a_chat_stands_alone(kind):
    tokenizer = KINDS[kind]()
    ids = tokenizer("The capital is Havana. no")["input_ids"]
    cut = next(n for n in range(len(ids)) if text_of(tokenizer, ids[:n], ()) == "The capital")
    for follows, wanted in ((True, " is Havana. no"), (False, text_of(tokenizer, ids[cut:], ()))):
        growing, spelling, pieces, at = GrowingText(tokenizer, (), (), follows), Spelling(tokenizer, follows), "", []
        for token in ids[cut:]:
            growing.add(token)
            pieces += growing.take()
            at.append((spelling.of(token)[0], spelling.add(token)))
        assert pieces == wanted
        assert "".join(text for text, _ in at) == wanted
        assert all(wanted[place : place + len(text)] == text for text, place in at)
    assert not Wording(SimpleNamespace(tokenizer=tokenizer), Limits()).follows(ids[:1]), "BOS alone is no text"


def test_a_served_answer_is_the_text_that_is_generated_here():
    tokenizer = llama_2_style()
    ids = tokenizer("yes, it is")["input_ids"][1:]
    served = {"text": " yes, it is", "token_ids": ids, "finish_reason": "stop"}  # as vLLM and heft serve give it
    client = SimpleNamespace(texts=lambda *args: [served])
    model = RemoteModel(client, tokenizer, (), None)
    example = SimpleNamespace(choices=(), prompt=(1,))
    task, evaluation = SimpleNamespace(max_new_tokens=8, stop=()), SimpleNamespace(batch_size=1)
    (answer,) = model.answers(task, [example], evaluation, Reporter(), "evaluation")
    assert answer.text == text_of(tokenizer, ids, ()) == "yes, it is"
