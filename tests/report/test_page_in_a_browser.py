"""The page as a person meets it: in Chromium, on a phone and a desktop, light and dark, and on paper.

Needs the package playwright and a Chromium (CONTRIBUTING.md says how to get both); skipped where either is missing.
"""

import os
import shutil
from itertools import product

import pytest
from report_files import write_run

from heft.report.page import write_report

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make test-page installs it")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine: apt-get install chromium", allow_module_level=True)

CONTRAST = """() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number)
  const luminance = ([r, g, b]) => [r, g, b]
    .map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0)
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const parts = getComputedStyle(e).backgroundColor
      const [r, g, b, alpha] = parse(parts)
      if (alpha === 0) continue
      return parts.startsWith('color(') ? [r, g, b].map(v => 255 * v) : [r, g, b]
    }
  }
  const found = []
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())
    if (!own) continue
    const style = getComputedStyle(element)
    const paper = luminance(behind(element))
    const ink = luminance(parse(element.closest('svg') ? style.fill : style.color))
    const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05)
    found.push([element.tagName, element.textContent.slice(0, 30), ratio])
  }
  return found
}"""
"""Of each element with text of its own, the contrast with what lies behind it (WCAG 2.2, relative luminance)."""


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    runs = [
        write_run(folder / f"a-name-that-is-rather-long-{rank}-{seed}", seed=seed, rank=rank, skill=skill)
        for rank, skill in ((2, 0.95), (4, 0.6), (8, 0.9))
        for seed in (0, 1)
    ]
    write_report(runs, folder / "report.html")
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as playwright:
        flags = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # Chromium refuses root else
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield opened
        opened.close()


@pytest.fixture(params=list(product((360, 390, 1440), ("light", "dark"))), ids=lambda p: f"{p[0]}-{p[1]}")
def opened(request, browser, page_file):
    """The page, and what it said and asked for while it loaded."""
    width, scheme = request.param
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_file.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(fold => fold.open = true)")
    yield page, said, asked
    page.close()


def test_it_says_nothing_on_the_console_and_asks_for_itself_alone(opened, page_file):
    _, said, asked = opened
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [page_file.as_uri()]


def test_it_never_scrolls_sideways_and_wide_tables_scroll_in_their_own_box(opened):
    page = opened[0]
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    boxes = page.locator(".scroll")
    overflowing = boxes.evaluate_all("boxes => boxes.filter(b => b.scrollWidth > b.clientWidth).length")
    if page.viewport_size["width"] < 400:
        assert overflowing > 0
    assert boxes.evaluate_all("boxes => boxes.every(b => b.tabIndex === 0)")


def test_every_text_stands_out_from_the_paper(opened):
    found = opened[0].evaluate(CONTRAST)
    assert len(found) > 100
    assert [row for row in found if row[2] < 4.5] == []


def test_dark_is_dark_and_light_is_light(opened):
    page = opened[0]
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (max(paper) < 60) == dark


def test_headings_never_skip_a_level_and_every_figure_has_words(opened):
    page = opened[0]
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))
    assert page.evaluate("document.documentElement.lang") == "en"
    figures = page.locator("figure").evaluate_all(
        "all => all.map(f => [f.querySelector('svg').ariaLabel, f.querySelector('figcaption').textContent])"
    )
    assert len(figures) >= 8
    assert all(label and any(c.isdigit() for c in caption) for label, caption in figures)
    assert page.locator("table").evaluate_all(
        "all => all.every(t => t.caption && [...t.querySelectorAll('th')].every(h => h.scope))"
    )


def test_letters_on_a_phone_are_large_enough(opened):
    sizes = opened[0].evaluate(
        "[...document.querySelectorAll('svg')].map(s => 11 * s.getBoundingClientRect().width / s.viewBox.baseVal.width)"
    )
    assert min(sizes) >= 9


def test_a_hostile_run_cannot_act(opened):
    page = opened[0]
    assert page.title().endswith("heft report")
    assert page.locator("script").count() == 1  # its own, whose hash the policy names


def test_it_prints(browser, page_file, tmp_path):
    page = browser.new_page(color_scheme="dark")
    page.goto(page_file.as_uri())
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.pdf(path=tmp_path / "report.pdf", prefer_css_page_size=True)
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


@pytest.fixture
def one_run(browser, tmp_path):
    """The page of one run on a desktop."""
    write_report([write_run(tmp_path / "run")], tmp_path / "report.html")
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto((tmp_path / "report.html").as_uri())
    yield page
    page.close()


def test_tiles_are_seen_without_scrolling_and_the_page_uses_its_width(one_run):
    boxes = [tile.bounding_box() for tile in one_run.locator(".tile").all()]
    assert len(boxes) == 6
    assert max(box["y"] + box["height"] for box in boxes) <= 900
    assert one_run.locator("main").bounding_box()["width"] > 1000


def test_a_click_copies_the_lines(one_run):
    button, lines = one_run.locator(".copy").first, one_run.locator(".snippet code").first
    one_run.context.grant_permissions(["clipboard-read", "clipboard-write"])
    button.click()
    assert button.text_content() == "Copied"
    assert one_run.evaluate("navigator.clipboard.readText()") == lines.text_content()


def test_without_a_script_the_page_reads_the_same_and_has_no_dead_button(browser, page_file):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert page.locator(".snippet pre").first.is_visible()
    assert not page.locator(".copy").first.is_visible()
    context.close()


def test_folds_are_open_on_paper_and_closed_again_after_it(one_run):
    assert one_run.locator("details:not([open])").count() > 3
    inside = one_run.locator("#settings details table").first
    assert not inside.is_visible()
    one_run.emulate_media(media="print")
    assert inside.bounding_box()["height"] > 20
    one_run.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert one_run.locator("details:not([open])").count() == 0
    one_run.evaluate("dispatchEvent(new Event('afterprint'))")
    assert one_run.locator("details:not([open])").count() > 3


def test_a_page_of_three_thousand_rows_stays_small(tmp_path):
    write_report([write_run(tmp_path / "run", questions=3000)], tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 200_000
