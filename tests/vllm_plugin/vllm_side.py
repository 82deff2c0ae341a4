"""Runs in vLLM's own environment: answers requests with vLLM and this package's plugin.

    python vllm_side.py JOBS

JOBS is a JSON file: `base`, a folder; `engine`, further arguments of `vllm.LLM`; `adapters`, paths by name; `batches`,
lists of requests that are sent together: `adapter` (a name or null), `prompt`, and either `count`, how many greedy
tokens, or `choice`, tokens whose ln p behind the prompt is asked for. Answers, in the same order, are written to
JOBS.out, with what went wrong with each adapter in `refused`, and how often requests were preempted and how many tokens
the prefix cache gave.
"""

import json
import os
import sys
from pathlib import Path

from vllm_quiet import QUIET

os.environ.update(QUIET)

from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""Where LoRA may be. With the output head among them, as it is by default, vLLM fails on a CPU where ln p of a prompt
is asked for."""


def main(path: Path) -> None:
    jobs = json.loads(path.read_text())
    llm = LLM(
        model=jobs["base"],
        seed=0,
        disable_log_stats=False,
        lora_target_modules=TARGETS,
        **{
            "enable_lora": True,
            "dtype": "float32",
            "enforce_eager": True,
            "max_lora_rank": 16,
            "max_loras": 8,
            **jobs["engine"],
        },
    )
    adapters, refused = {}, {}
    for number, (name, where) in enumerate(jobs["adapters"].items(), start=1):
        request = LoRARequest(name, number, where)
        try:
            llm.llm_engine.add_lora(request)
            adapters[name] = request
        except Exception as error:
            refused[name] = str(error)
    wanted = {each.get("adapter") for batch in jobs["batches"] for each in batch} - {None}
    if wanted - adapters.keys():
        sys.exit(f"refused: {refused}")
    answers = [answered(llm, batch, adapters) for batch in jobs["batches"]]
    figures = {metric.name: metric.value for metric in llm.get_metrics() if hasattr(metric, "value")}
    Path(f"{path}.out").write_text(json.dumps({"answers": answers, "refused": refused, "figures": figures}))


def answered(llm: LLM, batch: list[dict], adapters: dict) -> list:
    """The greedy tokens, or ln p, of each request."""
    prompts, params, loras = [], [], []
    for each in batch:
        prompt, choice = each["prompt"], each.get("choice", [])
        prompts.append({"prompt_token_ids": [*prompt, *choice]})
        asked = {"max_tokens": 1, "prompt_logprobs": 0} if choice else {"max_tokens": each["count"], "ignore_eos": True}
        own = {"extra_args": {"prompt_length": len(prompt)}} if choice else {}
        params.append(SamplingParams(temperature=0.0, **asked, **own))
        loras.append(adapters[each["adapter"]] if each.get("adapter") else None)
    outputs = llm.generate(prompts, params, lora_request=loras, use_tqdm=False)
    found = []
    for each, output in zip(batch, outputs, strict=True):
        choice = each.get("choice")
        if choice is None:
            found.append(list(output.outputs[0].token_ids))
        else:
            behind = output.prompt_logprobs[len(each["prompt"]) :]
            found.append(sum(there[token].logprob for there, token in zip(behind, choice, strict=True)))
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
