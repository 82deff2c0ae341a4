"""Whatever stands in a run's files, the page shows it and does nothing with it."""

import json
import unicodedata
from html.parser import HTMLParser
from importlib.resources import files

import pytest
from report_files import write_run

from heft.report.page import write_report

ATTACKS = [
    "<script>alert(1)</script>",
    '"onmouseover="alert(1)" x="',
    "'><img src=x onerror=alert(1)>",
    "javascript:alert(1)",
    "</title></style></svg><script>alert(1)</script>",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;script&gt; <!-- ]]>",
    "\x1b[2J\x00\x9b\u202etxt.exe\u2066",
]
ALL = " ".join(ATTACKS)


class Seen(HTMLParser):
    """Every tag with its attributes."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def change(path, change_value):
    value = json.loads(path.read_text())
    change_value(value)
    path.write_text(json.dumps(value))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A study of two arms, with attacks in all that a file can say freely."""
    folder = tmp_path_factory.mktemp("study")
    runs = [
        write_run(folder / f"r{seed}", seed=0, rank=rank, skill=skill)
        for seed, rank, skill in ((0, 2, 0.9), (1, 4, 0.6))
    ]
    for run in runs:
        text = (run / "recipe.yaml").read_text()
        assert "name: r" in text
        (run / "recipe.yaml").write_text(text.replace(f"name: {run.name}", f"name: {json.dumps(ALL + run.name)}", 1))
        change(run / "manifest.json", lambda v: v.update(heft_version=ALL, base={"name": ALL}, platform=ALL))
        change(run / "summary.json", lambda v: [stage.update(ended_because=ALL) for stage in v["stages"]])
        rows = [json.loads(line) for line in (run / "records" / "fine.jsonl").read_text().splitlines()]
        rows[0]["group"] = ALL
        (run / "records" / "fine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arms = [
        {"name": f"{ALL}{n}", "label": ALL, "runs": [f"r{n}"], "failed": [{"seed": 7, "error": ALL}]} for n in (0, 1)
    ]
    study = {"format": 1, "name": ALL, "reference": f"{ALL}0", "arms": arms, "budget": {ALL: ALL}}
    (folder / "study.json").write_text(json.dumps(study))
    write_report([folder], folder / "report.html", folder / "report.md")
    return folder / "report.html"


def test_attacks_are_text_and_all_of_them_are_there(page):
    seen = Seen(page.read_text())
    for attack in ATTACKS[:-1]:
        assert attack in seen.text, attack
    assert "\\u001b[2J\\u0000\\u009b\\u202etxt.exe\\u2066" in seen.text


def test_there_is_no_script_but_the_pages_own_no_handler_and_no_address_to_follow(page):
    text = page.read_text()
    assert text.count("<script") == 1
    assert f"<script>{files('heft.report').joinpath('page.js').read_text().strip()}</script>" in text
    for tag, attributes in Seen(text).tags:
        assert tag not in ("img", "iframe", "object", "embed", "form", "base"), tag
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("href", "src", "xlink:href", "action"):
                assert value.startswith(("#", "data:,")), (tag, name, value)


def test_no_control_character_is_left_in_the_page(page):
    left = {c for c in page.read_text() if unicodedata.category(c) == "Cc" or c in "\u202e\u2066"}
    assert left <= {"\n"}


def test_the_table_in_markdown_holds_no_markup_and_keeps_its_columns(page):
    text = page.with_suffix(".md").read_text()
    assert "<script" not in text
    assert "<img" not in text
    assert not {c for c in text if unicodedata.category(c) == "Cc"} - {"\n"}
