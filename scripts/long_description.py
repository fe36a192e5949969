"""README.md as an index shows it, away from the files beside it: its links to them name the release's own copies."""

from __future__ import annotations

import re

FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\](?:\([^)]*\))?)*)\]\((?!#|[a-z]+:)([^)\s]+)\)")


def long_description(readme: str, url: str | None, version: str) -> str:
    """Links to files lead to `url`, of a repository as GitHub and GitLab have them, at the tag of `version`.

    Without a url, of a link its words stay and of a picture nothing: neither would lead anywhere.
    """

    def absolute(match: re.Match[str]) -> str:
        picture, words, path = match[1], LINK.sub(absolute, match[2]), match[3]
        if url is None:
            return "" if picture else words
        return f"{picture}[{words}]({url.rstrip('/')}/{'raw' if picture else 'blob'}/v{version}/{path})"

    parts = []
    at = 0
    for block in FENCED.finditer(readme):
        parts += [LINK.sub(absolute, readme[at : block.start()]), block[0]]
        at = block.end()
    return "".join(parts) + LINK.sub(absolute, readme[at:])
