"""A real launcher whose dispatcher or worker kills itself at one step, once: the seam is a callable handed in.

launch WHO STEP FLAG SPOOL CONFIG    the launcher; its dispatcher is this same script with `dispatch`
"""

import os
import signal
import sys
from functools import partial

from cronq import dispatcher, launcher, realm, worker


def killer(step, flag):
    """A step that kills this process when it comes, the first time."""

    def call(name):
        if name == step and not os.path.exists(flag):
            os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
            os.kill(os.getpid(), signal.SIGKILL)

    return call


def launch(who, step, flag, spool, config):
    command = [sys.executable, __file__, "dispatch", who, step, flag, "--spool", spool, "--config", config]
    work = partial(worker.main, step=killer(step, flag)) if who == "worker" else worker.main
    return launcher.Launcher(spool, config, command, realm.Own(spool), work).serve()


def dispatch(who, step, flag, *argv):
    return dispatcher.main(list(argv), **({"step": killer(step, flag)} if who == "dispatcher" else {}))


if __name__ == "__main__":
    sys.exit({"launch": launch, "dispatch": dispatch}[sys.argv[1]](*sys.argv[2:]))
