"""ReFT is registered with PEFT whichever of the two is imported first."""

import json
import os
import subprocess
import sys

import pytest

KNOWN = (
    "import peft; t = peft.PeftType.REFT; from peft import mapping as m;"
    " assert t in m.PEFT_TYPE_TO_CONFIG_MAPPING and t in m.PEFT_TYPE_TO_TUNER_MAPPING;"
    " assert m.PEFT_TYPE_TO_PREFIX_MAPPING[t] == 'reft_';"
    " assert peft.PeftType('REFT') is t and list(peft.PeftType).count(t) == 1;"
)
SCRIPTS = {
    "reft_then_peft": f"import heft.reft; {KNOWN} from heft.reft.registration import register; register(); {KNOWN}",
    "peft_then_reft": f"import peft, heft.reft; {KNOWN}",
    "a_part_of_peft": f"import heft.reft; from peft.tuners.lora import LoraConfig; {KNOWN}",
    "the_config_first": f"from heft.reft import ReftConfig; ReftConfig(); {KNOWN}",
    "the_layer_first": f"import heft.reft.layer; {KNOWN}",
    "the_model_first": f"import heft.reft.model; {KNOWN}",
    "a_module_that_loads_adapters": f"import heft.adapters.directory; {KNOWN}",
}

# torch and transformers are imported once, then each script has a forked process without peft and heft
FORKS = """
import json, os, sys, traceback
import torch, transformers, accelerate
from transformers import BloomPreTrainedModel, PreTrainedModel  # most of what importing peft imports
assert not {"peft", "heft"} & set(sys.modules)
for name, script in json.load(sys.stdin).items():
    if os.fork() == 0:
        try:
            exec(script, {})
        except BaseException:
            print(name + "\\n" + traceback.format_exc(), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    _, status = os.wait()
    print(name, status)
"""


@pytest.fixture(scope="module")
def outcome():
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork to give each import order a fresh Python cheaply")
    run = subprocess.run([sys.executable, "-c", FORKS], input=json.dumps(SCRIPTS), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return dict(line.split() for line in run.stdout.splitlines()), run.stderr


@pytest.mark.parametrize("name", SCRIPTS)
def test_reft_is_registered_after(name, outcome):
    statuses, errors = outcome
    assert statuses[name] == "0", errors


def test_heft_its_recipes_and_comparisons_import_neither_torch_nor_peft():
    modules = "heft, heft.recipe.files, heft.cli.app, heft.compare.comparison, sys"
    script = f"import {modules}; assert not {{'torch', 'peft', 'transformers'}} & set(sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
