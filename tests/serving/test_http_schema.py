"""The published schema, /openapi.json, and the server: schemathesis makes requests of it and checks every answer.

It looks at statuses, content types and bodies against the schema, at requests that the schema forbids, which have to be
refused, and at methods that there are not. Requests that the schema allows may be refused too: for a model that is not
loaded, or a prompt that is too long.
"""

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from serve_making import LORA, TAIL, engine_of, make_run
from test_http import TEMPLATE, serving

PATHS = {
    "/v1/completions": "POST",
    "/v1/chat/completions": "POST",
    "/v1/classify": "POST",
    "/v1/models": "GET",
    "/v1/models/{name}": "GET",
    "/v1/load_lora_adapter": "POST",
    "/v1/unload_lora_adapter": "POST",
    "/health": "GET",
    "/metrics": "GET",
}
REFUSED = ("/v1/models/{name}", "/v1/load_lora_adapter", "/v1/unload_lora_adapter")
"""With a name that is made up, or where none are loaded."""
MODELS = ["two", "two:coarse", "random:tiny-llama"]


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("runs"), "two", f"{LORA}, {TAIL}")
    engine = engine_of(run, tokens=40, prompts=4, seconds=20)
    engine.catalog.tokenizer.chat_template = TEMPLATE
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def published(engine):
    with serving(engine) as port:
        found = schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")
        found.config.update(base_url=f"http://127.0.0.1:{port}")
        yield found


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("path", "method"), PATHS.items())
def test_every_answer_is_as_the_schema_says(published, engine, path, method, mode):
    statuses = set()

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(published[path][method].as_strategy(generation_mode=mode))
    def check(case):
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            case.body["model"] = MODELS[len(case.body["model"]) % len(MODELS)]  # else nearly all are "no such model"
        response = case.call_and_validate(excluded_checks=[positive_data_acceptance], timeout=60)
        statuses.add(response.status_code)
        assert engine.running + engine.waiting == 0

    try:
        check()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE  # a request without a body or parameters has nothing that can be wrong
        assert method == "GET"
    assert (200 in statuses) == (mode is GenerationMode.POSITIVE and path not in REFUSED), statuses


@pytest.mark.parametrize(("path", "method"), PATHS.items())
def test_another_method_is_refused_with_those_that_there_are(published, path, method):
    response = requests.request("PUT", f"{published.get_base_url()}{path}", timeout=60)
    assert (response.status_code, response.headers["Allow"]) == (405, method)
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_the_schema_has_every_path_and_the_form_of_errors(published):
    assert {path: [*own] for path, own in published.raw_schema["paths"].items()} == {
        path: [method.lower()] for path, method in PATHS.items()
    }
    for path, method in PATHS.items():
        assert {"200", "4XX", "5XX"} == set(published.raw_schema["paths"][path][method.lower()]["responses"])
