"""One line on standard error for people and journald: event=… key=value …

Does:    writes each line with one write, so that lines of launcher, dispatcher and workers do not mix.
Trusts:  nobody to read: a pipe that is full gets no line, because the jobs must not wait for a log's reader.
Fails:   never; whoever read the log may be gone, the jobs are not.
"""

from __future__ import annotations

import json
import os
import select

_MOST = 4000  # a pipe that is ready takes PIPE_BUF (4096) bytes without blocking


def line(event: str, **facts: object) -> None:
    """Write one line; values that are not plain words are quoted, control characters escaped."""
    words = [f"event={event}"]
    for key, value in facts.items():
        text = str(value)
        plain = text.isprintable() and not (set(' "=') & set(text)) and text != ""
        words.append(f"{key}={text if plain else json.dumps(text)}")
    data = " ".join(words).encode("utf-8", "backslashreplace")[:_MOST] + b"\n"
    try:
        ready = select.poll()
        ready.register(2, select.POLLOUT)
        if ready.poll(0):
            os.write(2, data)
    except OSError:
        pass
