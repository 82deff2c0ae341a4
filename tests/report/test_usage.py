"""Lines to paste, by the kind of adapter that a folder holds."""

import json

import pytest

from heft.report.usage import _others

LORA, PLACED = {"peft_type": "LORA"}, {"peft_type": "ACTIVATED_LORA", "positions": "l4+"}
ALORA = {"peft_type": "LORA", "alora_invocation_tokens": [5, 6]}


@pytest.mark.parametrize(
    ("method", "config", "needs", "harness"),
    [
        ("lora", LORA, None, True),
        ("lora", PLACED, "import heft.alora", False),
        ("lora", ALORA, None, False),
        ("reft", {"peft_type": "REFT"}, "import heft.reft", False),
    ],
)
def test_peft_is_told_what_to_import_and_the_harness_is_left_out_where_it_would_misplace(
    tmp_path, method, config, needs, harness
):
    manifest = {"model": {"name": "some/base"}, "adapters": [{"name": "one", "method": method}]}
    (tmp_path / "one").mkdir()
    (tmp_path / "heft.json").write_text(json.dumps(manifest))
    (tmp_path / "one" / "adapter_config.json").write_text(json.dumps(config))
    snippets = {snippet.title: snippet.lines for snippet in _others(tmp_path)}
    assert ("lm-evaluation-harness" in snippets) == harness
    assert snippets["PEFT"].startswith(needs or "from peft import PeftModel")
