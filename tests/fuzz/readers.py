"""Every reader of files that somebody else may have made."""

from __future__ import annotations

from fuzz.data_readers import DATA
from fuzz.run_readers import RUNS

READERS = {**DATA, **RUNS}
