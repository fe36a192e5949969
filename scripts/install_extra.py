"""Install what one of this package's extras needs, and leave the package itself, and what was built of it, alone.

python scripts/install_extra.py NAME
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata


def needs(extra: str, requirements: list[str]) -> list[str]:
    """The requirements of one extra, as the metadata of an installed package lists them all."""
    marked = (re.fullmatch(rf"(.*?);\s*extra == [\"']{re.escape(extra)}[\"']", each) for each in requirements)
    return [match[1].strip() for match in marked if match]


def main(extra: str) -> int:
    found = needs(extra, metadata.requires("pggan-fast") or [])
    if not found:
        print(f"pggan-fast, as it is installed here, has no extra {extra!r}", file=sys.stderr)
        return 1
    return subprocess.call([sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *found])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
