"""The page at `/` as a person meets it, in Chromium: models side by side, as text, as a chat and as choices.

Needs the package playwright and a Chromium; skipped where either is missing.
"""

import os
import shutil

import pytest
from serve_making import LORA, TAIL, engine_of, make_run
from test_http import TEMPLATE, serving

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make test-page installs it")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine: apt-get install chromium", allow_module_level=True)


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    engine = engine_of(make_run(tmp_path_factory.mktemp("runs"), "two", f"{LORA}, {TAIL}"))
    engine.catalog.tokenizer.chat_template = TEMPLATE
    with serving(engine) as port:
        yield port
    engine.close()


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as playwright:
        options = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("kind", ["completions", "chat", "classify"])
def test_models_answer_side_by_side(browser, port, width, kind):
    page = browser.new_page(viewport={"width": width, "height": 900})
    asked, faults = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.goto(f"http://127.0.0.1:{port}/")
    page.wait_for_selector("#models input")
    page.fill("#prompt", "Mary went to the kitchen. Where is Mary?")
    page.fill("#tokens", "5")
    page.select_option("#kind", kind)
    if kind == "classify":
        page.uncheck("#models input[value='random:tiny-llama']")
    page.click("#ask")
    page.wait_for_selector("#ask:not([disabled])")
    cards = page.query_selector_all(".answer")
    names = ["two", "two:coarse"] if kind == "classify" else ["random:tiny-llama", "two", "two:coarse"]
    assert [card.query_selector("h2").inner_text() for card in cards] == names
    assert page.query_selector_all(".answer .error") == []
    assert all(card.query_selector("pre").text_content() for card in cards)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert all(url.startswith(f"http://127.0.0.1:{port}/") for url in asked)
    assert [fault for fault in faults if "favicon" not in fault and "404" not in fault] == []
    page.close()
