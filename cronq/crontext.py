"""The two small languages inside a crontab: NAME=value lines, and `%` in a command.

Does:    a line -> name and value; a command -> what the shell gets, and what its standard input gets.
Reads:   nothing but its arguments.
Trusts:  nobody.
Fails:   not at all: a line that sets no variable is None.
"""

from __future__ import annotations

SPACE = " \t\n\v\f\r"


def variable(line: str) -> tuple[str, str, bool] | None:
    """A line NAME=value as cron reads it: name, value, whether the value was quoted. None: it is no such line.

    Name and value may stand in quotes; the name ends at a blank or `=`; blanks around `=` and behind the value do not
    count, not even inside quotes at the end. Nothing is expanded, and `#` means nothing.
    """
    if line[:1] in ("'", '"'):
        end = line.find(line[0], 1)
        if end < 0 or "=" in line[1:end]:
            return None
        name, rest = line[1:end], line[end + 1 :]
    else:
        end = next((at for at, char in enumerate(line) if char in SPACE or char == "="), len(line))
        name, rest = line[:end], line[end:]
    rest = rest.lstrip(SPACE)
    if not rest.startswith("="):
        return None
    value = rest[1:].lstrip(SPACE)
    quote = value[:1]
    if not quote:
        return None
    if quote not in ("'", '"'):
        return name, value.rstrip(SPACE), False
    end = value.find(quote, 1)
    if end < 0 or value[end + 1 :].strip(SPACE):
        return None
    inner = value[1:end].rstrip(SPACE)
    if len(inner) >= 2 and inner[0] in ("'", '"') and inner[-1] == inner[0]:
        inner = inner[1:-1]
    return name, inner, True


def split_percent(command: str) -> tuple[str, str]:
    r"""A command as the shell gets it (and as log and mail show it), and the text for its standard input.

    The first `%` that is not escaped ends the command. In the command `\%` and `\\` stand for `%` and `\`; in the input
    `\%` stands for `%`, another `%` for a newline, and a newline is added at its end if missing. No `%`: no input.
    """
    shown, at = [], 0
    while at < len(command) and command[at] != "%":
        if command[at] == "\\" and command[at + 1 : at + 2] in ("%", "\\"):
            at += 1
        shown.append(command[at])
        at += 1
    return "".join(shown), _input(command[at + 1 :])


def _input(text: str) -> str:
    out, escaped, open_line = [], False, False
    for char in text:
        if escaped and char != "%":
            out.append("\\")
        written = "\n" if char == "%" and not escaped else char
        escaped = char == "\\"
        if not escaped:
            out.append(written)
            open_line = written != "\n"
    return "".join(out) + "\\" * escaped + "\n" * open_line
