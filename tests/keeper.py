"""Ends a private world when the process that made it has ended: `python -I keeper.py PID DIRECTORY < NAMESPACE`.

Does:    waits for PID to end, then kills every process that is still in its mount namespace (whose name comes by
         standard input), and removes DIRECTORY and the cgroups of that name. It is not in that namespace: nothing is
         mounted below DIRECTORY here. It holds the namespace open: the kernel gives the name of one that is gone to
         the next that is made, and strangers live there.
"""

import os
import select
import shutil
import signal
import sys
import time

CGROUPS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")  # where version 2 may be mounted
QUIET = 3  # looks that must find nothing: one alone can miss a process that forks and ends


def main(pid: int, directory: str) -> None:
    """Wait, kill, remove."""
    namespace = os.read(0, 100).decode()  # as soon as the maker is in it; nothing where it has ended before
    try:
        maker = os.pidfd_open(pid)
        held = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
        if os.readlink(f"/proc/self/fd/{held}") != namespace:
            namespace = ""
        if os.getppid() == pid:
            select.select([maker], [], [])
    except OSError:
        namespace = ""
    quiet = 0
    while namespace and quiet < QUIET:
        found = sum(_kill(int(name), namespace) for name in os.listdir("/proc") if name.isdigit())
        quiet = 0 if found else quiet + 1
        time.sleep(0.01)  # between looks
    shutil.rmtree(directory, ignore_errors=True)
    for place in CGROUPS:  # what tests made there bears the directory's name
        for folder, _, _ in os.walk(os.path.join(place, os.path.basename(directory)), topdown=False):
            os.rmdir(folder)


def _kill(pid: int, namespace: str) -> bool:
    """Kill a process if it is of this namespace; whether it is."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if os.readlink(f"/proc/{pid}/ns/mnt") != namespace:
            return False
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        return True
    except OSError:  # it is gone, or a zombie
        return False
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
