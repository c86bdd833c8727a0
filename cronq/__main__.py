"""`cronq`: the console command. `submit`, `exec` and `crontab` start without the rest of it, which is not light.

Called by a link named `crontab` it is `cronq crontab`.
"""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Run the command line; returns the exit code, or exits with it."""
    argv = sys.argv[1:]
    if os.path.basename(sys.argv[0]) == "crontab":
        argv.insert(0, "crontab")
    if argv and argv[0] in ("submit", "exec"):
        from cronq import submit

        code = submit.main(argv)
        if code is not None:
            os._exit(code)  # it buffers nothing; tearing the interpreter down would be a tenth of its time
        argv = [argv[0], "--help"]
    if argv and argv[0] == "crontab":
        from cronq import tabcommand

        return tabcommand.main(argv[1:])
    from cronq import cli

    return cli.main(argv)


if __name__ == "__main__":
    sys.exit(main())
