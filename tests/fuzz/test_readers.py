"""No file of any kind crashes, hangs or says more than one line: readers against changed files, for a time each.

PGGAN_TEST_FUZZ_SECONDS is the time: 1 by default.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz.hunt import hunt
from fuzz.readers import READERS

pytestmark = pytest.mark.early


@pytest.mark.parametrize("name", READERS)
def test_changed_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
    tally = hunt(READERS[name], tmp_path / "hunt")
    assert not tally.findings, "\n".join(tally.findings)
    assert tally.tried > 0
