"""MkDocs hooks: publish the repository's other Markdown files too, and make every page's links work on the site.

Links in the repository point to files. On the site a link to a published file leads to its page, a picture is copied,
and a link to any other file (code, models) becomes plain text, because the site does not contain it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]

PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "examples/README.md": "examples.md",
    "training/README.md": "training.md",
    "training/LOG.md": "log.md",
    "training/ceiling.md": "ceiling.md",
    "benchmarks/report.md": "report.md",
    "benchmarks/study/report.md": "study.md",
    "benchmarks/seeds/report.md": "seeds.md",
    "benchmarks/training-speed.md": "training-speed.md",
}
"""Files outside docs/ and their pages; the pages of docs/ have the names of their files."""

PICTURES = (".svg", ".png", ".jpg")
LINK = re.compile(r"(!?)\[((?:[^][]|\[[^][]*\])*)\]\(([^)#\s]*)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside docs/, and the pictures that pages show."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for source, text in _sources():
        for bang, _, target, _ in LINK.findall(text):
            path = _resolve(source, target)
            if bang and path and not path.startswith("docs/") and files.get_file_from_path(path) is None:
                files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make a page's links relative to the site's pages."""
    by_page = {name: source for source, name in PAGES.items()}
    source = by_page.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def rewrite(match: re.Match[str]) -> str:
        bang, text, target, anchor = match.group(1), match.group(2), match.group(3), match.group(4) or ""
        path = _resolve(source, target)
        if path is None:
            return match.group()
        if not (ROOT / path).exists():
            raise PluginError(f"{source}: links to {target}, which does not exist")
        name = PAGES.get(path, path.removeprefix("docs/"))
        if files.get_file_from_path(name) is None:
            return text
        relative = posixpath.relpath(name, posixpath.dirname(page.file.src_uri) or ".")
        return f"{bang}[{text}]({relative}{anchor})"

    # A link inside a picture's link, or inside code, does not occur in these files.
    return LINK.sub(rewrite, markdown)


def _resolve(source: str, target: str) -> str | None:
    """The repository path that a link of `source` leads to; None for addresses and for links within the page."""
    if not target or re.match(r"[a-z]+:", target):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), target))


def _sources() -> list[tuple[str, str]]:
    names = [*PAGES, *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
    return [(name, (ROOT / name).read_text(encoding="utf-8")) for name in names]
