"""What mkdocs does besides for the site: figures, files of the repository that are pages, generated pictures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))  # mkdocs takes it away when this module is loaded

import docs_imports
import docs_terminal
from docs_text import expanded

ROOT = Path(__file__).resolve().parents[2]


def on_files(files: Files, config: Any) -> Files:
    """Adds what is drawn or copied as the site is built."""
    made = {f"terminal/{name}.svg": docs_terminal.svg(name) for name in docs_terminal.PICTURES}
    made["img/imports.svg"] = docs_imports.svg(ROOT)
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.png")):
        files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    try:
        return expanded(markdown, ROOT)
    except (ValueError, KeyError, OSError) as error:
        raise PluginError(f"{page.file.src_uri}: {error}") from None
