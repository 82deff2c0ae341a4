"""`heft serve` over HTTP: OpenAI's own client, heft's answers, limits and errors."""

import http.client
import json
import threading
import time
from contextlib import contextmanager

import openai
import pytest
import uvicorn
from serve_making import LORA, TAIL, engine_of, make_run

import heft
from heft.serving.http.app import Access, build_app
from heft.serving.http.server import listen

BASE = "random:tiny-llama"
IDS = list(range(60, 90))
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
)


@contextmanager
def serving(engine, access=None):
    """The port of a server in this process."""
    listening = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(build_app(engine, access), log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return folder, make_run(folder, "two", f"{LORA}, {TAIL}"), make_run(folder, "late", TAIL, seed=5)


@pytest.fixture(scope="module")
def engine(runs):
    engine = engine_of(runs[1], batch=4, queue=4, tokens=300, prompts=4, body=20_000)
    engine.catalog.tokenizer.chat_template = TEMPLATE
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def port(engine, runs):
    with serving(engine, Access(load_from=runs[0])) as port:
        yield port


@pytest.fixture(scope="module")
def client(port):
    return openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)


def post(port, path, body, headers=None):
    """Status and document of a request; `body` is bytes, or is sent as JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("POST", path, data, {"Content-Type": "application/json", **(headers or {})})
    response = connection.getresponse()
    found = response.status, json.loads(response.read())
    connection.close()
    return found


def get(port, path, headers=None):
    """Status and text."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path, headers=headers or {})
    response = connection.getresponse()
    found = response.status, response.read().decode()
    connection.close()
    return found


def test_the_base_and_every_stage_are_models(client):
    assert [model.id for model in client.models.list()] == [BASE, "two", "two:coarse"]
    assert client.models.retrieve("two:coarse").id == "two:coarse"


def test_completions_give_the_tokens_of_heft_load_streamed_or_not(client, runs):
    model, tokenizer = heft.load(runs[1])
    import torch

    wanted = model.generate(torch.tensor([IDS]), do_sample=False, max_new_tokens=8, pad_token_id=0)[0, len(IDS) :]
    asked = {"model": "two", "prompt": IDS, "max_tokens": 8, "temperature": 0}
    whole = client.completions.create(**asked, extra_body={"return_token_ids": True})
    assert whole.choices[0].token_ids == wanted.tolist()
    streamed = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in streamed if chunk.choices) == whole.choices[0].text
    assert streamed[-1].usage == whole.usage
    assert all("usage" in chunk.model_fields_set and chunk.usage is None for chunk in streamed[:-1])
    assert [chunk.choices[0].finish_reason for chunk in streamed[:-1]][-1] == whole.choices[0].finish_reason


def test_several_prompts_and_texts_come_in_order_with_seeds(client):
    asked = {"model": "two", "max_tokens": 6, "temperature": 1.0, "seed": 7}
    both = client.completions.create(prompt=["one prompt", "another one"], n=2, **asked).choices
    alone = client.completions.create(prompt="another one", n=2, **asked).choices
    assert [choice.text for choice in both[2:]] == [choice.text for choice in alone]
    assert alone[0].text != alone[1].text
    negative = client.completions.create(prompt="another one", n=2, **{**asked, "seed": 6 - 2**63}).choices
    assert negative[0].text != alone[0].text


def test_chats_go_through_the_template(client):
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "hello"}]}]
    asked = {"model": "two", "messages": messages, "max_completion_tokens": 6, "temperature": 0}
    whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
    ids = [*b"<system>s<user>hello<a>"]
    assert whole.usage.prompt_tokens == len(ids)
    content = whole.choices[0].logprobs.content
    assert [len(token.top_logprobs) for token in content] == [2] * len(content)
    chunks = list(client.chat.completions.create(**asked, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content


def test_echo_scores_a_continuation_as_heft_does(client, runs):
    from types import SimpleNamespace

    from heft.evaluation.likelihood import plain_log_likelihoods

    model, _ = heft.load(runs[1])
    question = SimpleNamespace(id="0", group=None, prompt=tuple(IDS[:20]), choices=(tuple(IDS[20:]),))
    wanted = plain_log_likelihoods(model, [question], 1, 0)[0][0]
    asked = {"model": "two", "prompt": IDS, "max_tokens": 0, "echo": True, "logprobs": 0}
    found = client.completions.create(**asked, extra_body={"prompt_length": 20}).choices[0].logprobs
    assert found.token_logprobs[0] is None
    assert len(found.tokens) == len(IDS)
    assert sum(found.token_logprobs[20:]) == pytest.approx(wanted, abs=1e-3)
    as_prompt = client.completions.create(**asked).choices[0].logprobs
    assert sum(as_prompt.token_logprobs[20:]) != pytest.approx(wanted, abs=1e-2)


def test_classify_gives_the_labels_and_probabilities_of_heft_predict(port, runs):
    from heft.tasks import load_examples

    task = heft.load_recipe(runs[0] / "two.yaml").task
    rows = [{"prompt": example.prompt} for example in load_examples(task, "eval")[:3]]
    from heft.prediction.speaking import speaker

    opened = speaker(runs[1])
    wanted = opened.load().answers([opened.task.prompted(row["prompt"]) for row in rows])
    status, found = post(port, "/v1/classify", {"model": "two", "input": [row["prompt"] for row in rows]})
    assert status == 200
    for one, other in zip(found["data"], wanted, strict=True):
        assert one["label"] == other.answer
        assert one["probs"] == pytest.approx(list(other.probabilities), abs=1e-5)


def test_classify_takes_token_ids_of_any_question(port, runs):
    from heft.data.encode import Encoder
    from heft.evaluation.likelihood import plain_log_likelihoods
    from heft.reft.tracker import positions_of
    from heft.tasks import load_examples

    task = heft.load_recipe(runs[0] / "two.yaml").task
    model, tokenizer = heft.load(runs[1])
    encoded = Encoder.of(tokenizer, task, positions_of(model))(load_examples(task, "eval")[:4])
    wanted = plain_log_likelihoods(model, encoded, 1, 0)
    given = [{"prompt_ids": row.prompt, "choice_ids": row.choices} for row in encoded]
    status, found = post(port, "/v1/classify", {"model": "two", "input": given})
    assert status == 200
    for one, scores in zip(found["data"], wanted, strict=True):
        assert one["log_likelihoods"] == pytest.approx(scores, abs=1e-3)
        assert one["choice"] == max(range(len(scores)), key=scores.__getitem__)
        assert sum(one["probs"]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"model": "other", "prompt": "a"}, 404, "does not exist"),
        ({"model": "two", "prompt": "a", "max_tokens": -1}, 400, "max_tokens"),
        ({"model": "two", "prompt": "a", "max_tokens": 100_000}, 400, "the server takes 300"),
        ({"model": "two", "prompt": "a" * 400}, 400, "the server takes 300"),
        ({"model": "two", "prompt": ["a"] * 5}, 400, "the server takes 4"),
        ({"model": "two", "prompt": "a", "n": 5}, 400, "the server takes 4"),
        ({"model": "two", "prompt": ""}, 400, "no tokens"),
        ({"model": "two", "prompt": [10**6]}, 400, "embeddings"),
        ({"model": "two", "prompt": "a", "temperature": -1}, 400, "temperature"),
        ({"model": "two", "prompt": "a", "top_p": 0}, 400, "top_p"),
        ({"model": "two", "prompt": "a", "best_of": 3}, 400, "best_of"),
        ({"model": "two", "prompt": "a", "max_tokens": 0}, 400, "echo"),
        ({"model": "two", "prompt": "a", "presence_penalty": 1}, 400, "presence_penalty"),
        ({"prompt": "a"}, 400, "model"),
        (b'{"model": "two", "prompt": "a"', 400, "JSON"),
        (b'{"model": "two", "prompt": "\xff\xfe"}', 400, ""),
        (b"[" * 10_000, 400, "nested too deeply"),
        (b'{"model": "two", "prompt": "\\ud83d"}', 400, "half of a surrogate pair"),
        (b'{"model": "two", "\\ud83d": 1}', 400, "half of a surrogate pair"),
        (b'{"model": "two", "prompt": "a", "model": "two"}', 400, "model"),
        (b"{" + b" " * 20_000 + b"}", 413, "20,000 bytes"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_requests_are_openai_errors_and_disturb_nothing(port, engine, body, status, words):
    found, document = post(port, "/v1/completions", body)
    assert found == status
    assert words in document["error"]["message"]
    assert set(document["error"]) == {"message", "type", "param", "code"}
    assert engine.is_alive
    assert post(port, "/v1/completions", {"model": "two", "prompt": IDS, "max_tokens": 1})[0] == 200


def test_a_body_of_another_type_is_told_what_to_send(port):
    body = json.dumps({"model": "two", "prompt": "a"}).encode()
    status, document = post(port, "/v1/completions", body, {"Content-Type": "application/x-www-form-urlencoded"})
    assert status == 400
    assert "Content-Type: application/json" in document["error"]["message"]


def test_unknown_paths_and_methods_are_openai_errors(port):
    assert post(port, "/v1/nothing", {})[0] == 404
    status, text = get(port, "/v1/completions")
    assert status == 405
    assert json.loads(text)["error"]["type"] == "invalid_request_error"


def test_the_openai_client_reads_the_errors(client):
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.completions.create(model="x", prompt="a")
    with pytest.raises(openai.BadRequestError, match="the server takes"):
        client.completions.create(model="two", prompt="a", max_tokens=100_000)


def _wait_for(condition):
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not become so within ten seconds")


LONG = {"model": BASE, "prompt": IDS[:5], "max_tokens": 290, "ignore_eos": True}


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_place(port, engine, monkeypatch, stream):
    _slow(engine, monkeypatch)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = json.dumps({**LONG, "stream": stream})
    connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    _wait_for(lambda: engine.running == 1)
    connection.sock.close() if stream else connection.close()
    _wait_for(lambda: engine.running == 0)


def _slow(engine, monkeypatch, seconds=0.02):
    step = engine._passes.step
    monkeypatch.setattr(engine._passes, "step", lambda *args: (time.sleep(seconds), step(*args))[1])


def test_a_full_queue_answers_429_and_says_when_to_come_again(port, engine, monkeypatch):
    _slow(engine, monkeypatch)
    connections = []
    for _ in range(2):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        body = json.dumps({**LONG, "n": 4, "stream": True})
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        connections.append(connection)
    _wait_for(lambda: engine.running + engine.waiting == 8)
    status, document = post(port, "/v1/completions", {"model": "two", "prompt": "a"})
    assert status == 429
    assert document["error"]["type"] == "rate_limit_error"
    for connection in connections:
        connection.close()
    _wait_for(lambda: engine.running + engine.waiting == 0)
    assert post(port, "/v1/completions", {"model": "two", "prompt": "a"})[0] == 200


def test_adapters_are_loaded_listed_and_dropped_while_running(port, runs):
    asked = {"model": "new", "prompt": IDS, "max_tokens": 4}
    assert post(port, "/v1/completions", asked)[0] == 404
    assert post(port, "/v1/load_lora_adapter", {"lora_name": "new", "lora_path": "late"})[0] == 200
    assert '"new"' in get(port, "/v1/models")[1]
    assert post(port, "/v1/completions", asked)[0] == 200
    assert post(port, "/v1/load_lora_adapter", {"lora_name": "new", "lora_path": "late"})[0] == 400
    assert post(port, "/v1/unload_lora_adapter", {"lora_name": "new"})[0] == 200
    assert post(port, "/v1/completions", asked)[0] == 404
    assert post(port, "/v1/unload_lora_adapter", {"lora_name": "new"})[0] == 404


@pytest.mark.parametrize(("path", "status"), [("../", 403), ("/etc", 403), ("nowhere", 400), ("a\0b", 400)])
def test_only_folders_that_the_server_allows_are_loaded(port, path, status):
    assert post(port, "/v1/load_lora_adapter", {"lora_name": "x", "lora_path": path})[0] == status


def test_health_metrics_and_the_page_are_there(port, engine):
    assert get(port, "/health") == (200, '{"status":"ok"}')
    text = get(port, "/metrics")[1]
    assert 'heft_requests_total{path="/v1/completions",status="200"}' in text
    assert f"heft_generated_tokens_total {float(engine.counts.new_tokens)}" in text
    status, page = get(port, "/")
    assert status == 200
    assert "http://" not in page
    assert "https://" not in page


def test_an_api_key_is_asked_for_by_v1_alone(engine):
    with serving(engine, Access(api_key="secret")) as port:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
            status, document = post(port, "/v1/completions", {"model": "two", "prompt": "a"}, headers)
            assert (status, document["error"]["code"]) == (401, "api_key")
        right = {"Authorization": "Bearer secret"}
        assert post(port, "/v1/completions", {"model": "two", "prompt": "a"}, right)[0] == 200
        assert get(port, "/health")[0] == 200
        assert get(port, "/")[0] == 200
        assert post(port, "/v1/load_lora_adapter", {"lora_name": "x", "lora_path": "late"}, right)[0] == 403


def test_fields_that_openais_interface_lets_be_null_are_then_the_defaults(port):
    completion = {"model": "two", "prompt": IDS, "max_tokens": 4, "seed": 3}
    nulls = dict.fromkeys(("temperature", "top_p", "n", "stream", "echo", "logprobs", "stop", "best_of", "suffix"))
    status, found = post(port, "/v1/completions", completion | nulls)
    assert (status, found["choices"]) == (200, post(port, "/v1/completions", completion)[1]["choices"])
    chat = {"model": "two", "messages": [{"role": "user", "content": "x"}], "max_tokens": 4, "seed": 3}
    nulls = dict.fromkeys(("temperature", "top_p", "n", "stream", "logprobs", "top_logprobs", "stop", "tools", "store"))
    status, found = post(port, "/v1/chat/completions", chat | nulls)
    assert (status, found["choices"]) == (200, post(port, "/v1/chat/completions", chat)[1]["choices"])


def test_an_answer_can_be_sent_back_as_a_turn_of_the_chat(client):
    messages = [{"role": "user", "content": "one"}]
    asked = {"model": "two", "max_completion_tokens": 4}
    answer = client.chat.completions.create(messages=messages, **asked).choices[0].message
    for turn in (answer, answer.model_dump()):  # as it came, and with the fields that it has not
        longer = [*messages, turn, {"role": "user", "content": "two"}]
        assert client.chat.completions.create(messages=longer, **asked).choices[0].message.role == "assistant"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"echo": True, "prompt_length": len(IDS) + 1}, "prompt_length"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", ""]}, "stop"),
    ],
)
def test_a_field_that_would_change_nothing_is_refused(port, body, param):
    status, found = post(port, "/v1/completions", {"model": "two", "prompt": IDS, "max_tokens": 1, **body})
    assert (status, found.get("error", {}).get("param")) == (400, param)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"stop": 3}, "stop: expected non-empty text or a list (each entry: non-empty text), or null; got 3"),
        (
            {"n": 0, "stop": ""},
            "n: expected a whole number of at least 1 and at most 128, or null; got 0; stop: expected",
        ),
        ({"max_token": 2}, "max_token: unknown key; did you mean 'max_tokens'?"),
        ({"stream_options": {"x": 1}}, "stream_options.x: unknown key; known here: include_usage"),
    ],
)
def test_a_fault_says_which_field_what_was_expected_and_what_was_given(port, body, message):
    status, found = post(port, "/v1/completions", {"model": "two", "prompt": IDS, **body})
    assert (status, found["error"]["message"][: len(message)]) == (400, message)
    assert found["error"]["param"] == message.partition(":")[0]


def test_a_text_behind_an_echoed_continuation_counts_positions_from_the_prompt_given(client, runs):
    import torch

    model, _ = heft.load(runs[1])
    ids = list(IDS)
    with torch.no_grad():
        for _ in range(8):
            logits = model(torch.tensor([ids]), prompt_lengths=torch.tensor([20])).logits
            ids.append(logits[0, -1].argmax().item())
    asked = {"model": "two", "prompt": IDS, "max_tokens": 8, "temperature": 0, "echo": True}
    own = {"prompt_length": 20, "return_token_ids": True, "ignore_eos": True}
    found = client.completions.create(**asked, extra_body=own).choices[0].token_ids
    assert found == ids[len(IDS) :]
    assert client.completions.create(**asked, extra_body={**own, "prompt_length": 30}).choices[0].token_ids != found


@pytest.mark.parametrize("chat", [False, True])
def test_streams_send_token_ids_of_prompt_and_text(port, chat):
    prompt = {"messages": [{"role": "user", "content": "x"}]} if chat else {"prompt": IDS}
    path = "/v1/chat/completions" if chat else "/v1/completions"
    asked = {"model": "two", "max_tokens": 5, "n": 2, "seed": 1, "return_token_ids": True, **prompt}
    whole = post(port, path, asked)[1]["choices"]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", path, json.dumps({**asked, "stream": True}), {"Content-Type": "application/json"})
    lines = connection.getresponse().read().decode().split("\n\n")
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line and not line.endswith("[DONE]")]
    for index, choice in enumerate(whole):
        own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        prompts = [each["prompt_token_ids"] for each in own if "prompt_token_ids" in each]
        assert prompts == [choice["prompt_token_ids"]]
        assert [token for each in own for token in each.get("token_ids", ())] == choice["token_ids"]


def test_log_probabilities_name_the_chosen_token_beside_the_likeliest(client):
    asked = {"model": BASE, "prompt": IDS, "max_tokens": 12, "temperature": 100.0, "seed": 5, "logprobs": 1}
    found = client.completions.create(**asked).choices[0].logprobs
    for token, value, top in zip(found.tokens, found.token_logprobs, found.top_logprobs, strict=True):
        assert 1 <= len(top) <= 2
        assert token in top
        assert top[token] >= value
    assert any(len(top) == 2 for top in found.top_logprobs)


def test_bytes_of_tokens_are_those_of_the_text_and_offsets_are_places_in_it(client):
    asked = {"messages": [{"role": "user", "content": "x"}], "max_completion_tokens": 40, "seed": 1}
    answer = client.chat.completions.create(model=BASE, logprobs=True, **asked).choices[0]
    found = b"".join(bytes(token.bytes or ()) for token in answer.logprobs.content)  # of padding there are none
    assert found.decode(errors="replace") == answer.message.content
    assert "\ufffd" in answer.message.content
    echoed = client.completions.create(model=BASE, prompt="aéb€c", max_tokens=0, echo=True, logprobs=0).choices[0]
    assert echoed.logprobs.text_offset == [0, 1, 1, 2, 3, 3, 3, 4]


@pytest.mark.parametrize(
    ("given", "positions", "learned", "tokens"),
    [(None, 1024, False, 1024), (None, None, False, 4096), (None, 32_768, False, 4096), (None, 64, True, 64),
     (8192, 1024, False, 8192), (8192, 64, True, 65), (100, 1024, False, 100)],
)  # fmt: skip
def test_a_server_takes_as_many_tokens_as_the_model_was_made_for_or_as_many_as_are_given(
    given, positions, learned, tokens
):
    from heft.models.limits import BaseLimits
    from heft.serving.limits import Limits

    assert Limits(tokens=given).tokens_of(BaseLimits(positions=positions, learned=learned)) == tokens


def test_the_longest_text_of_a_model_with_learned_positions_is_what_it_says():
    from heft.builtin import byte_tokenizer
    from heft.models.load import Base
    from heft.recipe.model import ModelSettings
    from heft.serving.catalog import Catalog
    from heft.serving.engine import Engine
    from heft.serving.limits import Limits
    from tiny import tiny_model

    model = tiny_model("gpt2", n_positions=64)
    engine = Engine(Catalog(Base(model, byte_tokenizer(), ModelSettings(name="tiny"), "-")), Limits()).start()
    with serving(engine) as port:
        (card,) = json.loads(get(port, "/v1/models")[1])["data"]
        asked = {"model": "tiny", "prompt": IDS, "max_tokens": card["max_model_len"] - len(IDS)}
        assert post(port, "/v1/completions", asked)[0] == 200
        assert post(port, "/v1/completions", asked | {"max_tokens": asked["max_tokens"] + 1})[0] == 400
    engine.close()
