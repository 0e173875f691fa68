"""How Sphinx makes the site from the pages of this folder: `make docs`.

The pages are Markdown that reads well on GitHub, too. So what only the site needs is done here: the
list of the decisions' pages, links that lead out of this folder, and the commands' options.
"""

import os
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import typer
from sphinx.application import Sphinx
from typer.cli import get_docs_for_click

from datalake_assets import __version__
from datalake_assets.cli import COMMANDS, load

HERE = Path(__file__).parent
ROOT = HERE.parent

project = "US Equity Data Lake"
author = copyright = "The US Equity Data Lake authors"
version = release = __version__
repository = (
    tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    .get("urls", {})
    .get("Repository", "")
)

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "_generated"]
myst_heading_anchors = 3  # as GitHub has them
suppress_warnings = ["myst.header"]  # a page that is made of two may begin with a lower heading

# The notebook is executed when one of its cells has changed, in an empty folder, by the `datalake`
# of this environment, without whatever is set here.
nb_execution_mode = "cache"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
nb_output_stderr = "remove"  # the progress of commands
os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
for name in list(os.environ):
    if name.startswith(("ALPACA_", "AWS_", "DAGSTER_", "DATALAKE_")):
        del os.environ[name]

default_role = "code"  # docstrings have single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # they are in the signature
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80
napoleon_custom_sections = [("Warns", "returns_style")]

html_theme = "furo"
html_title = "US Equity Data Lake"
html_theme_options = {"source_repository": repository} if repository else {}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False


def commands() -> str:
    """The pages of `--help` as Markdown, made from the commands themselves."""
    pages = []
    for name in COMMANDS:
        command = load(name)
        with typer.Context(command, info_name=name) as context:
            pages.append(
                get_docs_for_click(obj=command, ctx=context, indent=1, name=f"datalake {name}")
            )
    return "\n".join(pages)


def write_commands(app: Sphinx) -> None:
    """Write what `commands.md` includes. When nothing changed, nothing is built again."""
    path = HERE / "_generated" / "commands.md"
    path.parent.mkdir(exist_ok=True)
    text = commands()
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


OF_THE_ROOT = {"changelog": "CHANGELOG.md", "contributing": "CONTRIBUTING.md"}
"""Pages of the site whose text is in the project's folder, where people look for them."""


def prepare(app: Sphinx, page: str, source: list[str]) -> None:
    """Make of a page for GitHub one for the site."""
    folder = (HERE / page).parent
    if page in OF_THE_ROOT:
        path = ROOT / OF_THE_ROOT[page]
        app.env.note_dependency(str(path))
        source[0] = path.read_text(encoding="utf-8").replace("](docs/", "](")
        for name, file in OF_THE_ROOT.items():
            source[0] = source[0].replace(f"]({file})", f"]({name}.md)")

    def link(found: re.Match[str]) -> str:
        """A link to a file that is no page: to the repository, or nothing but its text."""
        text, target = found[1], (folder / found[2]).resolve()
        if target.is_relative_to(HERE):
            return found[0]
        return (
            f"[{text}]({repository}/blob/main/{target.relative_to(ROOT)})" if repository else text
        )

    source[0] = re.sub(r"\[([^\]]+)\]\(((?:\.\./)+[^)#\s]+)\)", link, source[0])
    if page == "decisions/README":
        source[0] += "\n```{toctree}\n:hidden:\n:glob:\n*\n```\n"


def literal(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Show the indented examples and lists of a docstring as they are."""
    for number, line in enumerate(lines[:-2]):
        after, indented = lines[number + 1], lines[number + 2]
        if line.endswith(":") and not after and indented.startswith("    "):
            lines[number] = f"{line}:"


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("builder-inited", write_commands)
    app.connect("source-read", prepare)
    app.connect("autodoc-process-docstring", literal, priority=100)
