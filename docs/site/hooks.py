"""What mkdocs does for heft's site beside what it does for every site.

Pages that stand elsewhere in the repository, such as README.md, are pages of the site without a second copy, and links
between them and docs/ lead to them. So are examples, as files. A reference of the Python API is made from what `heft`
exports.
"""

import ast
import os
import re
from posixpath import dirname, join, normpath, relpath
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # tests read this where mkdocs is not installed
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/RESULTS.md": "benchmarks/results.md",
    "benchmarks/PRECISION.md": "benchmarks/precision.md",
    "benchmarks/CUDA.md": "benchmarks/cuda.md",
}
"""Files of the repository and the pages of the site that they are."""
EXAMPLES = "examples/"
"""The folder whose files have the same place in the repository and in the site."""
PYTHON = "python.md"
"""The page of the Python API."""
_LINK = re.compile(r"(?<=\]\()([^)\s#:]+\.(?:md|svg|png|py|ipynb))(?=[)#])")
_FUNCTIONS = ("train", "predict", "evaluate", "load", "load_recipe", "stack", "Result", "HeftError")
"""Of what heft exports, what stands first on that page."""


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add the pages that are not files of docs/."""
    from mkdocs.structure.files import File

    root = dirname(config.config_file_path.replace(os.sep, "/"))
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=f"{root}/{source}"))
    for name in examples(root):
        files.append(File.generated(config, name, abs_src_path=f"{root}/{name}"))
    files.append(File.generated(config, PYTHON, content=python_page(f"{root}/src/heft/__init__.py")))
    return files


def examples(root: str) -> list[str]:
    """Files of the repository that are files of the site too."""
    return sorted(EXAMPLES + name for name in os.listdir(f"{root}/{EXAMPLES}") if name.endswith((".py", ".ipynb")))


def on_page_markdown(markdown: str, page: "Page", config: "MkDocsConfig", files: "Files") -> str:
    """Let links of a page lead to the pages of the site."""
    return with_links(markdown, page.file.src_uri)


def with_links(markdown: str, page: str) -> str:
    """A page's text, with links as they are right in the site; `page` is its name there."""
    source = next((where for where, name in OUTSIDE.items() if name == page), f"docs/{page}")

    def link(found: re.Match) -> str:
        target = normpath(join(dirname(source), found[1]))
        name = OUTSIDE.get(target, target.removeprefix("docs/"))
        return relpath(name, dirname(page) or ".")

    return _LINK.sub(link, markdown)


def exported(init: str) -> dict[str, str]:
    """What `heft` exports, with the module of each, from its sources."""
    values = {}
    for node in ast.parse(init).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            values[node.targets[0].id] = node.value
    names = ast.literal_eval(values["__all__"])
    shared = dict.fromkeys(ast.literal_eval(values["_RECIPE"]), "heft.recipe.recipe")
    modules = {"HeftError": "heft.errors", **shared}
    for key, value in zip(values["_MODULES"].keys, values["_MODULES"].values, strict=True):
        if key is not None:
            modules[key.value] = value.value
        elif isinstance(value.args[0], ast.Tuple):
            modules |= dict.fromkeys(ast.literal_eval(value.args[0]), value.args[1].value)
    return {name: modules[name] for name in names}


def python_page(init: str) -> str:
    """The page of the Python API, as mkdocstrings reads it."""
    with open(init, encoding="utf-8") as file:
        modules = exported(file.read())
    rest = [name for name in modules if name not in _FUNCTIONS]
    parts = [
        "# Python API\n\nFor people who call heft from Python: everything that `import heft` gives, and the two modules"
        " that register its methods with PEFT. [calls.md](calls.md) has the ways of calling a ReFT model, and"
        " [recipes.md](recipes.md) every setting with its default.",
        "## Functions and results",
        *(_entry("heft", name, modules[name]) for name in _FUNCTIONS),
        "## Recipes, settings and reporters",
        *(_entry("heft", name, modules[name]) for name in rest),
        "## PEFT methods",
        _entry("heft.reft", "ReftConfig", "heft.reft.config"),
        _entry("heft.alora", "ActivatedLoraConfig", "heft.alora.config"),
    ]
    return "\n\n".join(parts) + "\n"


def _entry(package: str, name: str, module: str) -> str:
    return f"### `{package}.{name}`\n\n::: {module}.{name}\n    options: {{show_root_heading: false}}"
