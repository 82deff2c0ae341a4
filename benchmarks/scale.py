"""What models of 7, 13 and 70 billion parameters need, by `heft plan`: the table of docs/scale.md.

    python benchmarks/scale.py [--rate 4e14]

Llama-2's shapes in bfloat16, the arm of the paper (LoRA, then ReFT, rank 8) on 3,000 rows of 256 tokens, batches of 16
rows, at most 2 of them in a pass of each process. `--rate` is the matrix rate of a device in FLOP/s.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from transformers import LlamaConfig

from heft.builtin import byte_tokenizer

SHAPES = {
    "7B": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "13B": {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40},
    "70B": {
        **{"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64},
        "num_key_value_heads": 8,
    },
}
WAYS = [("ddp", 1), ("ddp", 8), ("fsdp2", 2), ("fsdp2", 4), ("fsdp2", 8), ("fsdp2", 16)]
ROWS, TOKENS = 3000, 256
STAGE = {"rank": 8, "batch_size": 16, "micro_batch_size": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=4e14)
    rate = parser.parse_args().rate
    lines = [
        "| model | processes | weights in each: device, main memory | peak of LoRA, ReFT `l7` | time of LoRA, ReFT |",
        "|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        prompt = "x" * (TOKENS - 4)  # a byte is a token
        rows.write_text(
            "".join(
                json.dumps({"prompt": f"{n:04} {prompt[5:]}", "answer": ["yes", "no"][n % 2]}) + "\n"
                for n in range(ROWS)
            )
        )
        for name, shape in SHAPES.items():
            model = Path(folder) / name
            LlamaConfig(vocab_size=32000, max_position_embeddings=4096, dtype="bfloat16", **shape).save_pretrained(
                model
            )
            byte_tokenizer().save_pretrained(model)
            for way, processes in WAYS:
                lines.append(_line(name, way, processes, planned(model, rows, way, processes, rate)))
    print("\n".join(lines))


def planned(model: Path, rows: Path, way: str, processes: int, rate: float) -> dict:
    """`heft plan --json`."""
    recipe = {
        "name": "scale",
        "model": {"name": str(model), "dtype": "bfloat16"},
        "task": {
            "name": "rows",
            "train": str(rows),
            "eval": str(rows),
            "eval_limit": 100,
            "prompt": "{prompt}",
            "answer": "answer",
        },
        "stages": {
            "coarse": {"method": "lora", "epochs": 1, **STAGE},
            "fine": {"method": "reft", "positions": "l7", "epochs": 2, **STAGE},
        },
        "distributed": way,
        "allow": ["train_in_eval"],
    }
    path = model.parent / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    command = [sys.executable, "-m", "heft", "plan", str(path), "--processes", str(processes), "--json"]
    command += ["--on", "cuda", "--rate", str(rate)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def _line(name: str, way: str, processes: int, plan: dict) -> str:
    coarse, fine = plan["stages"]
    weights = f"{_gb(plan['device_weight_bytes'])}, {_gb(plan['host_weight_bytes']) if plan['is_sharded'] else '–'}"
    peaks = f"{_gb(coarse['peak_bytes'])}, {_gb(fine['peak_bytes'])}"
    times = f"{coarse['seconds'] / 60:.1f}, {fine['seconds'] / 60:.1f} min"
    how = "1" if processes == 1 else f"{processes}, {way}"
    return f"| {name} | {how} | {weights} | {peaks} | {times} |"


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"


if __name__ == "__main__":
    main()
