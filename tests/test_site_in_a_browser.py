"""The built site in Chromium, opened as files: nothing is asked of another host, pages fit, and the search finds.

Needs `make docs`, the package playwright and a Chromium; skipped where one is missing.
"""

import shutil
from pathlib import Path

import pytest

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make test-page installs it")

SITE = Path(__file__).parents[1] / "build/site"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine: apt-get install chromium", allow_module_level=True)
if not SITE.is_dir():
    pytest.skip("the site is not built: make docs", allow_module_level=True)

SIZES = {"phone": {"width": 390, "height": 844}, "desktop": {"width": 1280, "height": 900}}


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def opened(browser):
    """Opens a page of the site at a size; gives it, what it asks of other hosts, and its errors."""

    def open_page(name: str, size: str):
        page, asked, errors = browser.new_page(viewport=SIZES[size]), [], []

        def heard(request):
            if not request.url.startswith(("file:", "data:", "blob:")):
                asked.append(request.url)

        page.on("request", heard)
        page.on("pageerror", lambda error: errors.append(error))
        page.goto((SITE / name).as_uri())
        return page, asked, errors

    return open_page


@pytest.mark.parametrize("size", SIZES)
def test_every_page_fits_and_asks_nothing_of_another_host(opened, size):
    names = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html") if path.name != "404.html")
    assert len(names) > 30
    for name in names:
        page, asked, errors = opened(name, size)
        wider = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert (wider, asked, errors) == (0, [], []), name
        page.close()


@pytest.mark.parametrize("size", SIZES)
def test_the_search_finds_without_a_server(opened, size):
    page, asked, errors = opened("index.html", size)
    if size == "phone":
        page.click("label.md-header__button[for=__search]")
    page.locator("input.md-search__input").press_sequentially("holdout")
    page.wait_for_selector(".md-search-result__item")
    assert page.locator(".md-search-result__item").count() > 3
    assert (asked, errors) == ([], [])
