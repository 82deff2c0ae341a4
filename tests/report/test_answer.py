"""The page's first part: which figures its tiles put together."""

import json

from report_files import write_run

from heft.report.answer import answer
from heft.report.subject import gather


def tiles(given):
    subject = gather(given)
    return {tile.name: tile for tile in answer(subject, subject.best).tiles}


def test_the_interval_of_the_lift_is_that_over_the_model_s_own_base(tmp_path):
    own = write_run(tmp_path / "tuned", rank=2, skill=0.95)
    named_so = write_run(tmp_path / "base", rank=4, skill=0.85)
    assert tiles([own, named_so])["lift, points"].more == "over the base model"
    assert tiles([own, f"{named_so}:base"])["lift, points"].more == "over the base model"  # it answers otherwise
    pair = next(p for p in gather([own, f"{own}:base"]).comparison.pairs if p.second.endswith(":base"))
    low, high = (f"{100 * end:+.1f}".replace("-", "−") for end in pair.interval)
    assert tiles([own, f"{own}:base"])["lift, points"].more == f"95 % interval {low} to {high}"


def test_likeness_to_the_references_is_the_mean_over_seeds_as_accuracy_is(tmp_path):
    runs = [write_run(tmp_path / f"run-{seed}", seed=seed) for seed in (0, 1)]
    for run, rouge_l, chrf in zip(runs, (0.4, 0.6), (0.2, 0.4), strict=True):
        stages = json.loads((run / "summary.json").read_text())["stages"]
        stages[-1] |= {"rouge_l": rouge_l, "chrf": chrf}
        (run / "summary.json").write_text(json.dumps({"stages": stages}))
        recipe = run / "recipe.yaml"
        recipe.write_text(recipe.read_text().replace(f"name: {run.name}", "name: run"))
    found = tiles(runs)
    assert found["ROUGE-L"].figure == "50.0"
    assert found["ROUGE-L"].more.startswith("chrF 30.0")
