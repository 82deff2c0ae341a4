"""What the plugin takes for granted of vLLM's inside, where no test can run it on a CPU."""

import ast
import json
import subprocess
from pathlib import Path

from vllm_making import ROOT, vllm_python

LAYERS = ROOT / "src/heft/vllm_plugin/layers.py"
V2 = """
import json
from types import SimpleNamespace as Fake
import numpy as np
from vllm.v1.worker.gpu.lora_utils import LoraState
from vllm.v1.worker.gpu.model_runner import GPUModelRunner
from vllm.v1.worker.gpu.states import RequestState
from vllm.lora.request import LoRARequest
from heft.vllm_plugin import hooks

added = []
GPUModelRunner.add_requests = lambda self, output: added.append(output)
for _ in range(2):
    hooks._extend_v2(GPUModelRunner, LoraState)
runner = GPUModelRunner.__new__(GPUModelRunner)
runner.heft = hooks.Served(None, 64, 3, "base")
runner.lora_state = LoraState(8)
runner.lora_manager = Fake(_adapter_manager=Fake(lora_index_to_id=[None, 7, 9]))
prompts, computed = np.zeros(8, dtype=np.int32), np.zeros(8, dtype=np.int32)
runner.req_states = Fake(prompt_len=Fake(np=prompts), num_computed_tokens_np=computed)
new = lambda name, extra: Fake(req_id=name, sampling_params=Fake(extra_args=extra))
runner.add_requests(Fake(finished_req_ids=set(), scheduled_new_reqs=[new("a", None), new("b", {"prompt_length": 4})]))
for row, (name, adapter, prompt, at) in {5: ("a", 9, 30, 28), 2: ("b", 7, 6, 0), 0: ("c", None, 9, 9)}.items():
    runner.lora_state.add_request(name, row, adapter and LoRARequest(str(adapter), adapter, "path"))
    prompts[row], computed[row] = prompt, at
order = np.array([0, 5, 2])
found = runner.lora_state.make_lora_inputs(["c", "a", "b"], order, np.array([1, 2, 6]))
pieces = [vars(each) for each in hooks._pieces_v2(runner, *runner.lora_state.heft_batch)]
runner.add_requests(Fake(finished_req_ids={"b"}, scheduled_new_reqs=[]))
names = set(RequestState.__init__.__code__.co_names)
print(json.dumps([pieces, [int(each) for each in found[1]], len(added), runner.heft.prompts,
                  sorted(names & {"prompt_len", "num_computed_tokens_np"})]))
"""


def _listed(name):
    for node in ast.parse(LAYERS.read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == name:
            return sorted(ast.literal_eval(node.value))
    raise AssertionError(name)


def _forward(path):
    """The names that a class's forward returns, and the arguments of its first norm, from vLLM's source."""
    module, _, kind = path.rpartition(".")
    packages = next(Path(vllm_python()).parents[1].glob("lib/python3.*/site-packages"))
    tree = ast.parse((packages / f"{module.replace('.', '/')}.py").read_text())
    layer = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind)
    forward = next(each for each in layer.body if isinstance(each, ast.FunctionDef) and each.name == "forward")
    nodes = list(ast.walk(forward))
    returned = {ast.unparse(each.value) for each in nodes if isinstance(each, ast.Return)}
    norms = {
        ast.unparse(each) for each in nodes if isinstance(each, ast.Call) and "layernorm" in ast.unparse(each.func)
    }
    return returned, norms


def test_listed_layers_return_what_the_next_one_sums_or_the_state_itself():
    for path in _listed("SUMMED"):
        returned, norms = _forward(path)
        assert returned in ({"(hidden_states, residual)"}, {"hidden_states, residual"}), path
        assert "self.input_layernorm(hidden_states, residual)" in norms, path
    for path in _listed("SINGLE"):
        returned, norms = _forward(path)
        assert returned == {"hidden_states"}, path
        assert not any("residual" in each for each in norms), path


def test_the_second_model_runners_requests_are_read_in_the_order_of_the_pass():
    done = subprocess.run([vllm_python(), "-c", V2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    pieces, mapping, added, prompts, names = json.loads(done.stdout.splitlines()[-1])
    assert mapping == [0, 9, 9, *[7] * 6]
    assert pieces == [
        {"slot": 2, "offset": 1, "start": 28, "count": 2, "prompt": 30},
        {"slot": 1, "offset": 3, "start": 0, "count": 6, "prompt": 4},
    ]
    assert (added, prompts) == (2, {})
    assert names == ["num_computed_tokens_np", "prompt_len"]
