"""What compute-sanitizer found, but for what it cannot know; exit status 1 where something is left.

    python scripts/sanitizer_report.py LOG

Two kinds of reports are no fault of a kernel here:
- initcheck does not see what the bulk copies of cuBLAS and cuDNN write, and reports whoever reads it: torch, and copies
  to the host.
- racecheck reports two writes of one instruction of a Triton kernel: a layout in which several threads hold the same
  element, and all of them store its one value.
All others count, and so does a report that is not understood: the tool's own number of them has to come out.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

PREFIX = "========= "
UNWRITTEN = "Uninitialized __global__"
COPIED = ("Host API memory access error", "on access by cudaMemcpy source")
RACE = "Race reported between"
REPORTS = (
    "Uninitialized __", "Invalid", "Misaligned", "Barrier error", "Divergent", "Program hit", "Host API", "Internal",
    "Leaked", "Malloc/Free", "Fatal", "Stack overflow", "Error:", "Unused memory",
)  # fmt: skip
OF_TORCH = re.compile(r"at::native|cudnn|cublas|cutlass|xmma|gemm|gemv|splitK", re.IGNORECASE)
# "at kernel+0x1f00 in file.py:157", or "at void kernel<T>(T *)+0x5e0 in file.cu:12"
PLACE = re.compile(r"(?P<access>\w+) access at (?P<place>.+?\+0x[0-9a-f]+(?: in (?P<file>\S+))?)(?: \[.*)?$")
SUMMARY = re.compile(r"SUMMARY: (?P<count>\d+) (?:error|hazard)(?!.*not printed)")


def findings(log: str) -> list[str]:
    """One line for each report that counts."""
    lines = [line.partition(PREFIX)[2].strip() for line in log.splitlines() if PREFIX in line]
    found, excused, declared, ended = [], 0, 0, False
    for at, line in enumerate(lines):
        following = lines[at + 1] if at + 1 < len(lines) else ""
        if (summary := SUMMARY.search(line)) is not None:
            declared, ended = declared + int(summary["count"]), True
        elif RACE in line:
            others = _others(lines[at + 1 :])
            if others and all(_one_value(line, other) for other in others):
                excused += 1
            else:
                found.append(" ".join([line, *others]))
        elif line.startswith(REPORTS):
            unwritten = line.startswith(UNWRITTEN) and OF_TORCH.search(following)
            if unwritten or (line.startswith(COPIED[0]) and following.endswith(COPIED[1])):
                excused += 1
            else:
                found.append(f"{line} {following}")
    if not ended:
        found.append("the log has no end: the run was cut off")
    if len(found) + excused < declared:
        found.append(f"{declared} reports by the tool's own count, {len(found) + excused} understood")
    return found


def _others(lines: list[str]) -> list[str]:
    """The other accesses of a race, a line each."""
    count = next((at for at, line in enumerate(lines) if not line.startswith("and ")), len(lines))
    return lines[:count]


def _one_value(line: str, other: str) -> bool:
    first, second = PLACE.search(line), PLACE.search(other)
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
