"""A job that says how it goes (docs/status.md): thumbs.py FILE…   It runs without cronq as well."""

import json
import os
import sys


def say(**words: object) -> None:
    """One line of JSON, written at once: what waits in a buffer is told to nobody."""
    if "CRONQ_STATUS_FD" in os.environ:
        os.write(int(os.environ["CRONQ_STATUS_FD"]), json.dumps(words).encode() + b"\n")


def main(files: list[str]) -> None:
    begin = int(os.environ.get("CRONQ_CURSOR", "0"))
    for number, name in enumerate(files[begin:], begin + 1):
        say(status=os.path.basename(name))
        with open(name, "rb") as file:
            head = file.read(100)
        if not head:
            say(warning=f"{name} is empty")
        else:
            with open(f"{name}.thumb", "wb") as thumb:
                thumb.write(head)
        say(progress=[number, len(files)], cursor=number)
    say(metric={"files": len(files)}, result=f"{len(files)} thumbnails")


if __name__ == "__main__":
    main(sys.argv[1:])
