"""The page as text: what is in it, in which order, and that nothing from a run can act in it."""

import html
import json
import re
import subprocess
import sys
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser

import pytest
from report_files import HOSTILE, write_run

from heft.errors import HeftError
from heft.report.page import write_report
from heft.results.metrics import measure
from heft.results.records import read_records


class Outline(HTMLParser):
    """Tags with their attributes, headings with their levels, and all text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.headings: list[tuple[int, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)
        if tag in ("h1", "h2", "h3", "h4"):
            self.headings.append((int(tag[1]), ""))

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if self._open and self._open[-1] in ("h1", "h2", "h3", "h4"):
            self.headings[-1] = (self.headings[-1][0], data)
        if "style" not in self._open:
            self.text += data


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [
        write_run(folder / f"r{rank}-{seed}", seed=seed, rank=rank, skill=skill)
        for rank, skill in ((2, 0.95), (4, 0.6))
        for seed in (0, 1)
    ]


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    output = tmp_path_factory.mktemp("page") / "report.html"
    write_report(runs, output, output.with_suffix(".md"))
    return output


def test_the_verdict_comes_first_and_the_settings_last(page):
    sections = [text for level, text in Outline(page.read_text()).headings if level == 2]
    assert sections == [
        "Verdict",
        "Results",
        "Use this adapter",
        "Label by label",
        "Learning curves",
        "Won and lost",
        "Statistics",
        "Accuracy against cost",
        "Calibration",
        "The fine edit, layer by layer",
        "Settings, versions, machine",
    ]


def test_nothing_from_a_run_becomes_markup(page):
    text = page.read_text()
    assert HOSTILE not in text
    assert html.escape(HOSTILE, quote=False)[:14] in text
    assert [tag for tag, _ in Outline(text).tags].count("script") == 1  # the page's own, named by its hash
    own = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    assert b64encode(sha256(own.encode()).digest()).decode() in text[: text.index("<style>")]


def test_the_page_asks_for_no_other_file(page):
    for tag, attributes in Outline(page.read_text()).tags:
        for name in ("src", "href", "data", "srcset", "poster", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:,")), (tag, attributes)
    assert "url(" not in page.read_text()
    assert "@import" not in page.read_text()


def test_examples_are_shown_with_their_text_and_both_answers(page):
    text = Outline(page.read_text()).text
    assert "Is 1 even? Answer:" in text
    assert "right answer" in text


def test_text_that_is_gone_is_said_and_ids_are_shown(runs, tmp_path):
    rows = runs[0].parent / "rows.jsonl"
    rows.rename(rows.with_suffix(".away"))
    try:
        write_report(runs, tmp_path / "report.html")
    finally:
        rows.with_suffix(".away").rename(rows)
    text = Outline((tmp_path / "report.html").read_text()).text
    assert "Ids alone are shown" in text
    assert "Is 1 even?" not in text
    assert "right answer yes" in " ".join(text.split())  # labels are in summary.json


def test_one_run_alone_is_looked_at_stage_by_stage(runs, tmp_path):
    write_report(runs[:1], tmp_path / "report.html")
    text = Outline((tmp_path / "report.html").read_text()).text
    assert "fine − base" in text
    assert "one seed says nothing of the spread over seeds" in text


def test_a_stage_of_a_run_is_shown_with_its_own_figures_and_nothing_of_later_stages(runs, tmp_path):
    write_report([f"{runs[0]}:coarse", runs[2]], tmp_path / "report.html", tmp_path / "report.md")
    text = Outline((tmp_path / "report.html").read_text()).text
    assert f"{runs[0].name}:coarse − {runs[2].name}" in text
    assert f"| {runs[0].name}:coarse | coarse | 0 |" in (tmp_path / "report.md").read_text()
    layers = text[text.index("The fine edit, layer by layer", text.index("Calibration")) :]
    assert layers.count("loreft, 3 layers") == 1  # of the other run
    curves = text[
        text.index("An upright line marks") : text.index("The fine edit, layer by layer", text.index("Loss is"))
    ]
    assert curves.count("fine: 4 steps") == 1
    with pytest.raises(HeftError, match="has no stage 'last'; it has base, coarse, fine"):
        write_report([f"{runs[0]}:last"], tmp_path / "other.html")


def test_a_study_is_read_and_its_failed_runs_are_named(runs, tmp_path):
    names = {"two": runs[:2], "four": runs[2:]}
    arms = [{"name": n, "label": n, "runs": [str(r) for r in found], "failed": []} for n, found in names.items()]
    arms[0]["label"] = "two & a half"
    arms.append({"name": "base", "stage": "base", "runs": [str(r) for r in runs[:2]]})
    arms[1]["failed"] = [{"seed": 7, "error": "out of <memory>\nat line 3"}]
    study = {"format": 1, "name": "both", "reference": "two", "arms": arms, "budget": {"flops": 1e15}}
    (tmp_path / "study.json").write_text(json.dumps(study))
    write_report([tmp_path], tmp_path / "report.html", tmp_path / "report.md")
    text = (tmp_path / "report.html").read_text()
    assert "four, seed 7, failed and is not counted: out of &lt;memory&gt;<" in text
    assert "- four, seed 7, failed and is not counted: out of &lt;memory>\n" in (tmp_path / "report.md").read_text()
    assert "1.00 × 10¹⁵" in text
    assert "two: two &amp; a half." in text
    assert "the model before any stage has no seed" in text
    titles = [title for level, title in Outline(text).headings if level == 3]
    titles = [title for title in titles if title in names]
    assert titles[:2] == ["two", "four"]  # learning curves: the base is no training of its own


def test_the_same_runs_give_the_same_page(page, runs, tmp_path):
    write_report(runs, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == page.read_text()


def test_the_table_is_markdown(page):
    assert "| --" in page.with_suffix(".md").read_text().replace("|--", "| --").replace("|:-", "| --")


def test_bad_input_leaves_nothing_behind(runs, tmp_path):
    with pytest.raises(HeftError, match="not a run directory"):
        write_report([tmp_path], tmp_path / "report.html", tmp_path / "table.md")
    with pytest.raises(HeftError, match="two names"):
        write_report(runs, tmp_path / "report.html", tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("1")
    with pytest.raises(HeftError, match="is a file"):
        write_report(runs, tmp_path / "file" / "report.html")


def test_a_report_needs_no_torch(runs, tmp_path):
    code = (
        "import sys; from heft.cli import main; sys.argv = ['heft', 'report', *sys.argv[1:]]\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, *map(str, runs), "--output", str(tmp_path / "report.html")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"report: {tmp_path / 'report.html'}\n"


def test_one_run_begins_with_its_answer_in_a_sentence_and_in_tiles(runs, tmp_path):
    write_report(runs[:1], tmp_path / "report.html")
    text = Outline((tmp_path / "report.html").read_text()).text
    base, coarse, fine = json.loads((runs[0] / "summary.json").read_text())["stages"]
    low, high = fine["interval"]
    assert (
        f"LoRA then ReFT answers {100 * fine['accuracy']:.1f} % of 40 evaluation rows rightly"
        f" ({100 * low:.1f}–{100 * high:.1f} %); the base model {100 * base['accuracy']:.1f} %."
    ) in text
    added = 100 * (fine["accuracy"] - coarse["accuracy"])
    assert f"The second stage (fine) added {added:.1f} points, which" in text
    size = sum(path.stat().st_size for path in (runs[0] / "adapter").rglob("*") if path.is_file())
    tiles = text[text.index("training time") : text.index("What each stage adds", text.index("training time"))]
    for figure in ("30 s", "300", f"{size / 1000:.3g} kB"):
        assert figure in tiles


def test_lines_to_paste_name_the_adapters_real_place(runs, tmp_path):
    write_report(runs[:1], tmp_path / "report.html")
    text = Outline((tmp_path / "report.html").read_text()).text
    folder = runs[0].resolve() / "adapter"
    assert f"heft predict {folder} new-rows.csv --output answers.csv" in text
    assert f'adapter = "{folder}"' in text
    assert 'heft.predict(adapter, "new-rows.csv")' in text
    write_report([f"{runs[0]}:coarse"], tmp_path / "coarse.html")
    text = Outline((tmp_path / "coarse.html").read_text()).text
    assert f"heft predict {folder} new-rows.csv --output answers.csv --stages coarse" in text
    assert 'heft.predict(adapter, "new-rows.csv", stages=["coarse"])' in text


def test_labels_have_their_names_and_figures_and_confused_ones_an_example(runs, tmp_path):
    write_report(runs[2:3], tmp_path / "report.html")
    text = Outline((tmp_path / "report.html").read_text()).text
    records = [json.loads(line) for line in (runs[2] / "records" / "fine.jsonl").read_text().splitlines()]
    taken = sum((row["gold"], row["prediction"]) == (0, 1) for row in records)
    assert taken > 0
    assert f"{taken} of the 20 rows whose right answer is yes" in text
    own = text[text.index("Precision, recall and F1") :]
    hits = sum(row["gold"] == row["prediction"] == 0 for row in records)
    given = sum(row["prediction"] == 0 for row in records)
    assert f"{100 * hits / given:.1f} %" in own
    assert "choice 1" not in text


def test_settings_that_are_no_defaults_come_before_the_fold_with_the_others(runs, tmp_path):
    write_report(runs[:1], tmp_path / "report.html")
    text = Outline((tmp_path / "report.html").read_text()).text
    settings = text[text.index("Settings that differ from the defaults") :]
    first, rest = settings.split("All other settings (", 1)
    assert "stages.fine.rank" in first
    assert "stages.coarse.steps" in first
    assert "stages.fine.weight_decay" not in first
    assert "stages.fine.weight_decay" in rest


def test_a_run_with_something_wrong_shows_its_hints_with_the_setting_as_code(runs, tmp_path):
    write_report(runs[:1], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "Stage fine took 4 optimizer steps." in text
    assert "<code>stages.fine.steps: 50</code>" in text


def test_generated_answers_have_loss_and_likeness_in_place_of_labels(tmp_path):
    run = write_run(tmp_path / "run")
    stages = json.loads((run / "summary.json").read_text())["stages"]
    for stage, share in zip(stages, (0.1, 0.4, 0.8), strict=True):
        file = run / "records" / f"{stage['name']}.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for place, row in enumerate(rows):
            right = place < share * len(rows)
            row |= {"gold": "a cat", "prediction": "a cat" if right else "a dog", "correct": right}
            row |= {"log_likelihoods": [], "text": " a cat" if right else " a dog", "cut": not right}
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        figures = measure(read_records(file), True)
        keys = ("accuracy", "interval", "balanced_accuracy", "majority", "predictions", "rouge_l", "chrf")
        stage |= {key: getattr(figures, key) for key in keys} | {"labels": None, "loss": 1.234}
    (run / "summary.json").write_text(json.dumps({"stages": stages}))
    write_report([run], tmp_path / "report.html")
    text = Outline((tmp_path / "report.html").read_text()).text
    assert "answers 80.0 % of 40 evaluation rows exactly as the reference does" in text
    assert "Label by label" not in text
    assert "Loss: of the reference answers" in text
    # a word of two is shared by a wrong answer: F = 0.5
    assert f"ROUGE-L{100 * (0.8 + 0.2 * 0.5):.1f}" in text
    assert "8 of 40 answers were cut at task.max_new_tokens" in text


def test_several_runs_begin_with_the_most_accurate_and_what_it_has_over_the_others(runs, tmp_path):
    write_report(runs, tmp_path / "report.html")
    text = Outline((tmp_path / "report.html").read_text()).text
    right = [json.loads((run / "summary.json").read_text())["stages"][-1]["accuracy"] for run in runs]
    best, other = (right[0] + right[1]) / 2, (right[2] + right[3]) / 2
    assert f"r2-0 answers {100 * best:.1f} % of 40 evaluation rows rightly" in text
    assert f"r2-0 has {100 * (best - other):.1f} points more than r4-0 ({100 * other:.1f} %), which" in text
