"""A `cronq` that has started already: it forks for each call, since most of the time of a short command is its start.

Does:    `Forerunner.run` is `subprocess.run(["cronq", …])` for the commands in QUICK: a process of its own for each,
         with the ids, the session, the environment and the descriptors that it is to have, which then runs
         `cronq.__main__.main` of the installation whose Python this is. Only the start is shared.
Fails:   where it has ended, with `EOFError`.
"""

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import traceback

QUICK = {"cancel", "hold", "list", "logs", "next", "pause", "release", "result", "resume", "retry", "rm", "run", "show"}
QUICK |= {"drain", "edit", "history", "start", "stats", "wait", "why"}


class Forerunner:
    """One that waits, of this Python; it ends with us."""

    def __init__(self, python: str, **options) -> None:
        self.line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        words = [python, "-I", __file__, str(theirs.fileno())]
        options |= {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(words, pass_fds=[theirs.fileno()], **options)
        theirs.close()

    def run(self, argv: list[str], given: str | None, timeout: float = 60, **how) -> subprocess.CompletedProcess[str]:
        """Run `cronq` with these arguments and this input; `how` is as of `subprocess`: ids, env, cwd, umask."""
        how = {key: [*value] if key == "extra_groups" else value for key, value in how.items()}
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
            files[0].write((given or "").encode())
            files[0].seek(0)
            request = json.dumps({"argv": argv, **how}, default=str).encode()
            socket.send_fds(self.line, [request], [file.fileno() for file in files])
            pid = self._answer(timeout)
            try:
                code = self._answer(timeout)
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                self._answer(timeout)
                raise subprocess.TimeoutExpired(argv, timeout) from None
            for file in files:
                file.seek(0)
            out, err = (file.read().decode("utf-8", "surrogateescape") for file in files[1:])
        return subprocess.CompletedProcess(["cronq", *argv], code, out, err)

    def close(self) -> None:
        """End it."""
        self.line.close()
        self.process.kill()
        self.process.wait()

    def _answer(self, timeout: float) -> int:
        self.line.settimeout(timeout)
        answer = self.line.recv(100)
        if not answer:
            raise EOFError("the forerunner has ended")
        return int(answer)


def main(line: socket.socket) -> None:
    """Fork for each request, tell the pid and how it ended, until nobody asks any more."""
    from cronq import cli

    cli.typer.main.get_command(cli.app)  # what is imported late is imported now
    cli.main(["list", "--state"])
    while True:
        data, files, _, _ = socket.recv_fds(line, 1 << 20, 3)
        if not data:
            return
        pid = os.fork()
        if pid == 0:
            line.close()
            _become(json.loads(data), files)
        for file in files:
            os.close(file)
        line.send(str(pid).encode())
        line.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())


def _become(how: dict, files: list[int]) -> None:
    """Be the command, and end."""
    code = 70
    try:
        os.setsid()
        for number, file in enumerate(files):
            os.dup2(file, number)
        os.closerange(3, 100)
        if "user" in how:
            os.setgroups(how["extra_groups"])
            os.setresgid(*[how["group"]] * 3)
            os.setresuid(*[how["user"]] * 3)
        if "umask" in how:
            os.umask(how["umask"])
        os.environ.clear()
        os.environ.update(how["env"])
        os.chdir(how["cwd"])
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0)), "utf-8", "surrogateescape")
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w")), "utf-8", "surrogateescape")
        sys.stderr = io.TextIOWrapper(
            io.BufferedWriter(io.FileIO(2, "w")), "utf-8", "backslashreplace", line_buffering=True
        )
        sys.argv = ["cronq", *how["argv"]]
        from cronq.__main__ import main as cronq

        code = cronq() or 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - it ends here, and never goes on as another forerunner
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
