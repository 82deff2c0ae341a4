"""Lines to paste, by the kind of adapter that a folder holds."""

import json

import pytest

from heft.report.usage import _others

LORA, PLACED = {"peft_type": "LORA"}, {"peft_type": "ACTIVATED_LORA", "positions": "l4+"}
ALORA = {"peft_type": "LORA", "alora_invocation_tokens": [5, 6]}


@pytest.mark.parametrize(
    ("method", "config", "needs"),
    [
        ("lora", LORA, None),
        ("lora", PLACED, "import heft.alora"),
        ("lora", ALORA, None),
        ("reft", {"peft_type": "REFT"}, "import heft.reft"),
    ],
)
def test_peft_is_told_what_to_import_and_the_harness_goes_through_heft(tmp_path, method, config, needs):
    manifest = {"model": {"name": "some/base"}, "adapters": [{"name": "one", "method": method}]}
    (tmp_path / "one").mkdir()
    (tmp_path / "heft.json").write_text(json.dumps(manifest))
    (tmp_path / "one" / "adapter_config.json").write_text(json.dumps(config))
    snippets = {snippet.title: snippet.lines for snippet in _others(tmp_path)}
    assert snippets["lm-evaluation-harness"] == f"heft eval {tmp_path} --harness boolq,arc_easy"
    assert snippets["PEFT"].startswith(needs or "from peft import PeftModel")
