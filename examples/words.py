"""A task's function for a warm worker (docs/warm-workers.md): what takes long is done once, when this is imported.

    [tasks.words]
    python = "words:count"
    mode = "fork"
    cwd = "/usr/local/lib/words"     # where this file is
"""

import os
import sys
import time

time.sleep(0.5)  # stands for a large import, a model, a table that is read
BEGAN = os.getpid()


def count(*names: str) -> int:
    """Count the words of files, or of the standard input; the return value is the exit code."""
    for name in names or ("/dev/stdin",):
        with open(name, encoding="utf-8") as file:
            print(len(file.read().split()), name)
    print(f"process {os.getpid()}, imported by {BEGAN}", file=sys.stderr)
    return 0
