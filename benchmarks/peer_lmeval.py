"""lm-eval's loglikelihood of token ids on a transformers model, at the batch size that is best for it here.

Its text side (templates, tokenisation, metrics) is left out: requests are given as token ids.
"""

from trainer_tools import load_model, tokenizer
from worker import block, read_rows, serve, timed

BATCH_SIZES = (2, 4, 8, 16, 32)
TRIED_ROWS = 64


def load(job: dict) -> dict:
    from lm_eval.models.huggingface import HFLM

    rows = read_rows(job)
    model = HFLM(pretrained=load_model(job).eval(), tokenizer=tokenizer(job), batch_size=job["batch_size"])

    def run(chosen: list[dict]) -> dict:
        seconds, scores = timed(lambda: _scores(model, chosen), job["device"])
        return {"seconds": seconds, "examples": len(chosen), "epochs": 1, "losses": scores}

    def check(request: dict) -> dict:
        """Scores of the first rows; the fastest batch size for some of the first block is found and kept."""
        result = run(rows[: job["batch_size"]])
        first, times = block(rows, job, {"block": 0})[:TRIED_ROWS], {}
        for size in [size for size in BATCH_SIZES if size <= len(first)] or [len(first)]:
            model.batch_size_per_gpu = size
            times[size] = run(first)["seconds"]
        model.batch_size_per_gpu = min(times, key=times.get)
        return {**result, "note": f"lm-eval's best batch size here is {model.batch_size_per_gpu}"}

    return {"check": check, "run": lambda request: run(block(rows, job, request))}


def _scores(model, rows: list[dict]) -> list[float]:
    """ln p of every choice of every row, in order."""
    requests = [
        ((str((number, row["prompt"])), str(choice)), row["prompt"], choice)
        for number, row in enumerate(rows)
        for choice in row["choices"]
    ]
    return [score for score, _ in model._loglikelihood_tokens(requests, disable_tqdm=True)]


if __name__ == "__main__":
    serve(load)
