"""The places of `cronq metrics --listen`, in a process of its own that can have no further thread for a while."""

import subprocess
import sys

SCRAPES = """
import resource, socket, threading
from cronq import exporter
server = exporter.Server(("127.0.0.1", 0), "/nonexistent", {})
threading.Thread(target=server.serve_forever, daemon=True).start()

def scrape():
    with socket.create_connection(server.server_address, timeout=20) as line:
        line.sendall(b"GET /other HTTP/1.0\\r\\n\\r\\n")
        try:
            return line.recv(8)
        except ConnectionResetError:
            return b""

before = resource.getrlimit(resource.RLIMIT_AS)
threading.stack_size(4 << 30)
with open("/proc/self/statm") as file:
    resource.setrlimit(resource.RLIMIT_AS, (int(file.read().split()[0]) * 4096 + (1 << 29), before[1]))
print({scrape() for _ in range(2 * exporter.PLACES)})
resource.setrlimit(resource.RLIMIT_AS, before)
threading.stack_size(0)
print(scrape())
"""


def test_scrapes_that_no_thread_could_be_had_for_take_no_place_away():
    done = subprocess.run([sys.executable, "-c", SCRAPES], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "{b''}\nb'HTTP/1.0'\n", done.stderr
