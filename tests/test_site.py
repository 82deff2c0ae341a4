"""The documents as a site: every page is in the navigation, and every link leads somewhere."""

import importlib.util
import json
import re
from importlib import import_module
from pathlib import Path
from posixpath import dirname, join, normpath

import pytest
from ruamel.yaml import YAML

import heft

ROOT = Path(__file__).parents[1]
NAVIGATION = re.findall(r"^ +- (?:[^:\n]+): (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M)
PAGES = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/[A-Z]*.md"), *ROOT.glob("*.md")])
FENCE = re.compile(r"^(```|~~~).*?^\1", re.M | re.S)


@pytest.fixture(scope="module")
def hooks():
    """docs/site/hooks.py, as mkdocs imports it."""
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs/site/hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_every_document_is_in_the_navigation_once_and_every_page_there_exists(hooks):
    pages = [*hooks.OUTSIDE.values(), hooks.PYTHON, *(path.name for path in ROOT.glob("docs/*.md"))]
    assert sorted(NAVIGATION) == sorted(pages)
    assert all((ROOT / source).is_file() for source in hooks.OUTSIDE)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_relative_link_has_its_file_and_its_anchor(path):
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", text)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), f"{path.name} links to {target}"
        assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), f"{path.name} links to {target}"


def test_every_link_of_a_page_leads_to_a_file_of_the_site(hooks):
    there = {*hooks.OUTSIDE.values(), hooks.PYTHON, *hooks.examples(str(ROOT))}
    there |= {path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/*.*")}
    sources = {name: f"docs/{name}" for name in there if (ROOT / "docs" / name).suffix == ".md"}
    sources |= {page: source for source, page in hooks.OUTSIDE.items()}
    for page in sorted(sources.keys() - {hooks.PYTHON}):
        text = FENCE.sub("", hooks.with_links((ROOT / sources[page]).read_text(encoding="utf-8"), page))
        for target in re.findall(r"\]\(([^)\s#]+)[)#]", re.sub(r"`[^`]*`", "", text)):
            found = normpath(join(dirname(page), target))
            assert re.match(r"[a-z]+:", target) or found in there, f"{page} links to {target}"


def test_links_between_documents_and_other_files_lead_to_pages_of_the_site(hooks):
    index = hooks.with_links("![x](docs/heft.svg) [a](docs/tune.md#tune) [b](benchmarks/RESULTS.md)", "index.md")
    assert index == "![x](heft.svg) [a](tune.md#tune) [b](benchmarks/results.md)"
    assert hooks.with_links("[s](../SECURITY.md) [t](tune.md)", "report.md") == "[s](security.md) [t](tune.md)"
    assert hooks.with_links("[l](../docs/log.md)", "benchmarks/cuda.md") == "[l](../log.md)"
    assert hooks.with_links("[e](../examples/trl_sft.py)", "trl.md") == "[e](examples/trl_sft.py)"
    assert hooks.with_links("[l](https://example.org/x.md)", "report.md") == "[l](https://example.org/x.md)"


def test_the_python_page_has_all_that_heft_exports_from_where_it_is(hooks):
    exported = hooks.exported((ROOT / "src/heft/__init__.py").read_text(encoding="utf-8"))
    assert list(exported) == heft.__all__
    for name, module in exported.items():
        assert getattr(import_module(module), name) is getattr(heft, name)
    page = hooks.python_page(str(ROOT / "src/heft/__init__.py"))
    entries = re.findall(r"^::: (\S+)\.(\w+)$", page, re.M)
    assert {name for _, name in entries} == {*heft.__all__, "ReftConfig", "ActivatedLoraConfig"}
    assert all(hasattr(import_module(module), name) for module, name in entries)


def test_the_citation_is_of_this_version_and_of_the_papers_title():
    citation = YAML(typ="safe").load(ROOT / "CITATION.cff")
    assert citation["version"] == heft.__version__
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    (paper,) = citation["references"]
    title = "HEFT: A Coarse-to-Fine Hierarchy for Enhancing the Efficiency and Accuracy of Language Model Reasoning"
    assert paper["title"] == title
    assert "2509.09801" in paper["url"]


def test_the_citation_fits_the_schema_of_the_citation_file_format():
    jsonschema = pytest.importorskip("jsonschema")
    schemas = list(ROOT.glob(".venv-docs/lib/python3*/site-packages/cffconvert/schemas/1.2.0/schema.json"))
    if not schemas:
        pytest.skip("its schema comes with cffconvert, which make docs installs")
    citation = YAML(typ="safe").load(ROOT / "CITATION.cff")
    jsonschema.validate(citation, json.loads(schemas[0].read_text(encoding="utf-8")))
