"""Whatever is posted is answered with a status of HTTP and, where it is refused, an error of OpenAI's form."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serve_making import TAIL, engine_of, make_run
from test_http import post, serving

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = {
    "model": st.sampled_from(["two", "random:tiny-llama", "x"]) | ANY,
    "prompt": st.text(max_size=20) | st.lists(st.integers(-5, 400), max_size=5) | ANY,
    "input": st.lists(st.fixed_dictionaries({"prompt_ids": ANY, "choice_ids": ANY}) | ANY, max_size=3) | ANY,
    "messages": st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "x"]), "content": ANY})) | ANY,
    "max_tokens": st.integers(-2, 6) | ANY,
    "temperature": st.floats(-1, 3) | ANY,
    "top_p": st.floats(-1, 2) | ANY,
    "stop": st.lists(st.text(max_size=3), max_size=3) | ANY,
    "logprobs": st.integers(-1, 25) | st.booleans() | ANY,
    "echo": st.booleans() | ANY,
    "prompt_length": st.integers(-1, 9) | ANY,
    "n": st.integers(-1, 3) | ANY,
    "seed": st.integers(-1, 3) | ANY,
    "lora_name": ANY,
    "lora_path": ANY,
}
BODIES = st.fixed_dictionaries({}, optional=FIELDS) | ANY
PATHS = ["completions", "chat/completions", "classify", "load_lora_adapter", "unload_lora_adapter"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    engine = engine_of(make_run(tmp_path_factory.mktemp("runs"), "two", TAIL), tokens=40, prompts=4, seconds=20)
    with serving(engine) as port:
        yield engine, port
    engine.close()


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(path=st.sampled_from(PATHS), body=BODIES)
def test_any_body_has_an_answer_in_order(server, path, body):
    engine, port = server
    status, document = post(port, f"/v1/{path}", body)
    assert status in (200, 400, 403, 404), (body, document)
    assert status == 200 or set(document["error"]) == {"message", "type", "param", "code"}
    assert engine.running + engine.waiting == 0
