"""`cronq`: the console command. `submit` and `exec` start without the rest of the command line, which is not light."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Run the command line; returns the exit code, or exits with it."""
    argv = sys.argv[1:]
    if argv and argv[0] in ("submit", "exec"):
        from cronq import submit

        code = submit.main(argv)
        if code is not None:
            os._exit(code)  # it buffers nothing; tearing the interpreter down would be a tenth of its time
        argv = [argv[0], "--help"]
    from cronq import cli

    return cli.main(argv)


if __name__ == "__main__":
    sys.exit(main())
