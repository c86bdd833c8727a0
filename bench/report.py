"""What a benchmark found: printed, and written into its section of docs/performance.md.

A section stands between two comments that name it. Nothing else writes there, so that every figure in it is one that a
benchmark measured.
"""

import os
import platform
import time
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"


def machine() -> str:
    """What it was measured on, and when."""
    with open("/proc/meminfo") as file:
        memory = int(file.readline().split()[1]) // (1 << 20)
    day = time.strftime("%Y-%m-%d")
    cores = os.cpu_count()
    return f"Measured on {day}: {cores} cores, {memory} GiB of memory, Linux {platform.release().partition('-')[0]}."


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def section(name: str, text: str) -> None:
    """Print a section, and put it in the place of the one that bears its name."""
    print(text)
    begin, end = f"<!-- {name}: written by make bench-{name} -->\n", f"<!-- end of {name} -->\n"
    page = PAGE.read_text()
    before, _, rest = page.partition(begin)
    after = rest.partition(end)[2]
    PAGE.write_text(f"{before}{begin}\n{text}\n\n{end}{after}")
