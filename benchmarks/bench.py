"""Measure heft against its peers, side by side on this machine, and write RESULTS.md.

    python benchmarks/bench.py [--quick | --full] [--only NAME] [--device cuda] [--rows SOURCE]

Two processes load the same model and rows, then work by turns, block by block (A B A B …), so that what else the
machine does meets both; a ratio is taken within each pair of blocks. Results are kept in .results/ and added to.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from comparisons import COMPARISONS, Comparison
from envs import CannotBuild, Environments
from flops import operations
from parts import measure_parts
from peers import Peer, PeerFailed
from render_call import MADE_UP, default_rows, render

import report

HERE = Path(__file__).resolve().parent
TOLERANCE = 1e-3
"""Largest difference of first losses (and of evaluation's scores), relative to them where they are above 1."""
BF16_TOLERANCE = 5e-2


@dataclass(frozen=True)
class Size:
    """How much is measured: blocks a side, rows a block, rows a batch."""

    name: str
    blocks: int
    block_rows: int
    batch_size: int


QUICK, USUAL, FULL = Size("quick", 2, 8, 4), Size("usual", 3, 64, 16), Size("full", 3, 64, 16)
WHOLE = {"block_rows": 256}
"""With --full, the fine stage's whole run is run whole, once a side."""


def main() -> int:
    """Measure what is asked for; 1 if a comparison failed or losses disagree."""
    options = _options()
    size = FULL if options.full else QUICK if options.quick else USUAL
    given = dict(pair.split("=", 1) for pair in options.python)
    environments = Environments(HERE / ".envs", given)
    data = render(environments.python("heft"), options.model, options.rows, HERE / ".data")
    kind = size.name if options.device == "cpu" else f"{size.name}-{options.device}"
    store = report.Store(HERE / ".results" / f"{data.folder.name}-{kind}.json")
    bench = Bench(environments, data.folder, data.about, size, options)
    failed = False
    for comparison in COMPARISONS:
        if options.only in (None, comparison.name):
            result = bench.compare(comparison)
            failed |= bool(result.get("error") or result.get("losses_disagree"))
            store.put(comparison.name, result)
    if options.only in (None, "parts"):
        store.put("parts", measure_parts(bench.peer, options.quick))
    target = HERE / ("RESULTS.md" if size is not QUICK and options.device == "cpu" else f"RESULTS-{kind}.md")
    target.write_text(report.render_report(store.all(), data.about, size, options))
    print(f"wrote {target.name}", file=sys.stderr)
    return int(failed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    lengths = parser.add_mutually_exclusive_group()
    lengths.add_argument("--quick", action="store_true", help="few rows and small batches: shows that all works")
    lengths.add_argument("--full", action="store_true", help="run the fine stage's 20 epochs on 256 rows whole")
    names = [comparison.name for comparison in COMPARISONS]
    parser.add_argument("--only", choices=[*names, "parts"], help="measure this alone; the rest is kept")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cuda computes in bfloat16")
    parser.add_argument("--blocks", type=int, help="pairs of blocks to measure")
    parser.add_argument("--threads", type=int, default=2, help="threads of each side, which work by turns")
    parser.add_argument("--model", default="embedded:smollm2-135m-instruct", help="as in a recipe")
    parser.add_argument(
        "--rows",
        default=default_rows(),
        help=f"BoolQ's folder, wheel or hub, or {MADE_UP}, rows of one length that heft makes up; default: %(default)s",
    )
    parser.add_argument("--python", action="append", default=[], metavar="PEER=PATH", help="use this environment")
    return parser.parse_args()


@dataclass(frozen=True)
class Bench:
    """Runs comparisons of one size on one machine.

    Attributes:
        environments: of the peers.
        data: folder of the rows and the model.
        about: sizes of the model.
        size: how much is measured.
        options: of the command line.
    """

    environments: Environments
    data: Path
    about: dict
    size: Size
    options: argparse.Namespace

    def compare(self, comparison: Comparison) -> dict:
        """Measure both sides by turns; what failed is told in `error`."""
        print(f"{comparison.name}: heft against {comparison.against}", file=sys.stderr, flush=True)
        own_job, peer_job = comparison.job | comparison.own, comparison.job | comparison.peer_job
        blocks = self.options.blocks or self.size.blocks
        if comparison.whole_run and self.options.full:
            blocks = 1
            own_job |= WHOLE | {"own_epochs": 20}
            peer_job |= WHOLE | {"peer_epochs": 20}
        try:
            with self.peer("heft", own_job) as own, self.peer(comparison.peer, peer_job) as peer:
                measured = self._measure(own, peer, blocks, own_job.get("dtype", "float32"))
                return measured | self._operations(comparison, own_job, blocks)
        except (CannotBuild, PeerFailed) as error:
            print(error, file=sys.stderr, flush=True)
            return {"error": str(error).splitlines()[-1]}

    def peer(self, name: str, job: dict) -> Peer:
        """Start a measured process."""
        base = {
            "model": str(self.data / "model"),
            "batch_size": self.size.batch_size,
            "block_rows": self.size.block_rows,
            "threads": self.options.threads,
            "device": self.options.device,
        }
        log = Path(tempfile.gettempdir()) / f"heft-bench-{name}.log"
        job = base | job | {"rows": str(self.data / f"{job['rows']}.jsonl")}
        if self.size is QUICK:
            job["block_rows"] = QUICK.block_rows
        return Peer(name, self.environments.python(name), job, log)

    def _measure(self, own: Peer, peer: Peer, blocks: int, dtype: str) -> dict:
        checks = own.ask("check"), peer.ask("check")
        pairs = []
        for block in range(blocks):
            pairs.append((own.ask("run", block=block), peer.ask("run", block=block)))
            print(f"  {pairs[-1][0]['seconds']:.2f} s, {pairs[-1][1]['seconds']:.2f} s", file=sys.stderr, flush=True)
        difference = _difference(checks[0]["losses"], checks[1]["losses"])
        tolerance = TOLERANCE if self.options.device == "cpu" and dtype == "float32" else BF16_TOLERANCE
        return {
            "size": self.size.name,
            "pairs": pairs,
            "first_losses": [check["losses"][0] for check in checks],
            "loss_difference": difference,
            "losses_disagree": difference > tolerance,
            "notes": [check["note"] for check in checks if "note" in check],
            "memory": [own.ask("memory"), peer.ask("memory")],
            "versions": [own.versions, peer.versions],
        }

    def _operations(self, comparison: Comparison, job: dict, blocks: int) -> dict:
        """Operations of heft's blocks, one number a block, for one epoch."""
        if comparison.flops == "none":
            return {}
        lines = (self.data / f"{job['rows']}.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        count = min(job.get("block_rows", self.size.block_rows), len(rows))
        starts = [block * count % (len(rows) - count + 1) for block in range(blocks)]
        sizes = comparison.flops, self.about["config"], job["rank"], job.get("last", 0)
        kind, *rest = sizes
        return {"operations": [operations(kind, rows[start : start + count], *rest) for start in starts]}


def _difference(own: list[float], peer: list[float]) -> float:
    """Largest difference of first losses; of all numbers where there are as many of evaluation's scores."""
    pairs = zip(own, peer, strict=True) if own and own[0] < 0 else [(own[0], peer[0])]
    return max(abs(a - b) / max(1.0, abs(b)) for a, b in pairs)


if __name__ == "__main__":
    sys.exit(main())
