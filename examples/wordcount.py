"""Map and reduce: a job for each file counts its words, and when all have ended, one job sums up.

wordcount.py submit FILE…     queues the batch, prints its id
wordcount.py count FILE       what each of its jobs does
wordcount.py sum              its callback: is told of the batch on its standard input, reads what the jobs printed
"""

import glob
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path


def submit(files: list[str]) -> None:
    me = [sys.executable, str(Path(__file__).resolve())]
    lines = "".join(f"{' '.join(me)} count {Path(name).resolve()}\n" for name in files)
    words = ["cronq", "exec", "--batch", "-", "--on-complete", f"{' '.join(me)} sum"]
    subprocess.run(words, input=lines, text=True, check=True)


def count(name: str) -> None:
    print(json.dumps(Counter(Path(name).read_text().split())))


def sum_up() -> None:
    told = json.load(sys.stdin)
    total: Counter[str] = Counter()
    for path in sorted(glob.glob(glob.escape(told["results"]) + "+[0-9]*/stdout")):
        text = Path(path).read_text()
        total.update(json.loads(text) if text else {})  # one that failed has printed nothing
    failed = told["jobs"] - told["counts"].get("done", 0)
    print(json.dumps({"words": dict(total.most_common()), "files": told["jobs"], "failed": failed}))


if __name__ == "__main__":
    {"submit": lambda: submit(sys.argv[2:]), "count": lambda: count(sys.argv[2]), "sum": sum_up}[sys.argv[1]]()
