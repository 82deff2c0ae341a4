"""What the plugin takes for granted of vLLM's inside, where no test can run it on a CPU."""

import ast
import json
import subprocess
from pathlib import Path

import pytest
from vllm_making import ROOT, vllm_python

from serving.serve_making import make_run

LAYERS = ROOT / "src/heft/vllm_plugin/layers.py"
V2 = """
import json
from types import SimpleNamespace as Fake
import numpy as np
from vllm.v1.worker.gpu.lora_utils import LoraState
from vllm.v1.worker.gpu.model_runner import GPUModelRunner
from vllm.v1.worker.gpu.states import RequestState
from vllm.lora.request import LoRARequest
from heft.vllm_plugin import passes, runner as runners

added = []
GPUModelRunner.add_requests = lambda self, output: added.append(output)
for _ in range(2):
    passes.extend_v2(GPUModelRunner, LoraState)
runner = GPUModelRunner.__new__(GPUModelRunner)
runner.heft = runners.Served(None, 64, 3, "base")
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
pieces = [vars(each) for each in passes.pieces_v2(runner, *runner.lora_state.heft_batch)]
runner.add_requests(Fake(finished_req_ids={"b"}, scheduled_new_reqs=[]))
names = set(RequestState.__init__.__code__.co_names)
print(json.dumps([pieces, [int(each) for each in found[1]], len(added), runner.heft.prompts,
                  sorted(names & {"prompt_len", "num_computed_tokens_np"})]))
"""

COMPILED = """
import sys
from types import SimpleNamespace as Fake
from pathlib import Path
import torch
from vllm import forward_context
from heft.vllm_plugin import layers
from heft.vllm_plugin.directory import Place, read_adapter, read_layout
from heft.vllm_plugin.edits import EditState, Piece

class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(64, 64)

    def forward(self, hidden, residual):
        return self.linear(hidden), residual + 1

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList([Layer() for _ in range(3)])

    def forward(self, hidden):
        residual = hidden
        for layer in self.layers:
            hidden, residual = layer(hidden, residual)
        return hidden + residual

torch.manual_seed(0)
layers.register_operation()
adapter = read_adapter(read_layout(Path(sys.argv[1])), 64, 4)
model, places = Model(), [Place(n, "block") for n in range(3)]
for n, layer in enumerate(model.layers):
    layer.register_forward_hook(layers.hook_of(f"n{n}", "block"))
compiled = torch.compile(model, fullgraph=True, backend=sys.argv[2])
for masked in (True, False):
    state = EditState(places, 64, 2, 8, 64, torch.device("cpu"), masked)
    tables = {f"n{n}": state.tables[place] for n, place in enumerate(places)}
    forward_context._forward_context = Fake(no_compile_layers=tables)
    for slot, prompt in ((None, 9), (1, 9), (1, 4), (0, 9)):
        if slot == 1:
            state.put(1, adapter)
        state.begin([] if slot is None else [Piece(slot, 2, 0, 9, prompt)])
        hidden = torch.randn(16, 64)
        with torch.no_grad():
            eager, made = model(hidden.clone()), compiled(hidden.clone())
            state.begin([])
            plain = model(hidden.clone())
        assert torch.allclose(eager, made, atol=1e-4), (masked, slot)
        assert torch.allclose(eager, plain) == (slot != 1), (masked, slot)
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


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.long)])
def test_compiled_layers_have_no_graph_break_and_follow_each_passs_tokens(tmp_path, backend):
    run = make_run(tmp_path, "run", "fine: {method: reft, rank: 4, positions: l3, epochs: 1}")
    command = [vllm_python(), "-c", COMPILED, str(run), backend]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


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
