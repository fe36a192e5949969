"""What compute-sanitizer found, but for what it cannot know; exit status 1 where something is left.

    python scripts/sanitizer_report.py LOG

Two kinds of reports are no fault of a kernel here:
- initcheck does not see what the bulk copies of cuBLAS and cuDNN write, and reports whoever reads it: torch, and copies
  to the host.
- racecheck reports two writes of one instruction of a Triton kernel: a layout in which several threads hold the same
  element, and all of them store its one value.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections import Counter
from pathlib import Path

PREFIX = "========= "
UNWRITTEN = "Uninitialized __global__"
FAULTS = (UNWRITTEN, "Uninitialized __", "Invalid", "Misaligned", "Barrier error", "Divergent", "Program hit")
OF_TORCH = re.compile(r"at::native|cudnn|cublas|cutlass|xmma|gemm|gemv|splitK", re.IGNORECASE)
# "at kernel+0x1f00 in file.py:157", or "at void kernel<T>(T *)+0x5e0 in file.cu:12"
PLACE = re.compile(r"(?P<access>\w+) access at (?P<place>.+?\+0x[0-9a-f]+(?: in (?P<file>\S+))?)(?: \[.*)?$")
ENDS = re.compile(r"(ERROR|RACECHECK) SUMMARY")


def findings(log: str) -> list[str]:
    """One line for each report that counts."""
    lines = [line.partition(PREFIX)[2].strip() for line in log.splitlines() if PREFIX in line]
    found = []
    for line, following in itertools.pairwise([*lines, ""]):
        if "Race reported between" in line:
            if not _one_value(line, following):
                found.append(f"{line} {following}")
        elif line.startswith(FAULTS) and not (line.startswith(UNWRITTEN) and OF_TORCH.search(following)):
            found.append(f"{line} {following}")
    if not any(ENDS.search(line) for line in lines):
        found.append("the log has no end: the run was cut off")
    return found


def _one_value(line: str, following: str) -> bool:
    first, second = PLACE.search(line), PLACE.search(following)
    if first is None or second is None:
        return False
    both_write = first["access"] == second["access"] == "Write"
    return both_write and first["place"] == second["place"] and (first["file"] or "").split(":")[0].endswith(".py")


def main(path: str) -> int:
    found = Counter(findings(Path(path).read_text(errors="replace")))
    for text, count in found.most_common(20):
        print(f"{count} x {text}")
    print(f"{path}: {sum(found.values())} reports that count")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
