"""An entry: what the name of a job file in `queue/` says, so that nobody must open the file to know it.

Does:    `Entry` <-> file name. Sorted names are the order of dispatch: priority, due time, id.
Trusts:  only the dispatcher writes below `queue/` (0700), yet `parse` is strict: a name it does not know is junk, and
         is set aside by the caller, never guessed at.
Fails:   `ValueError` with what is wrong with the name.

    PP,DUE,ID,tag…      PP   20 minus the priority, two digits: 00 first, 40 last
                        DUE  microseconds since the epoch, 13 hex digits
                        ID   <uid>-NAME; for a member of a batch <uid>-NAME+LINE, for a callback of it
                             <uid>-NAME+success, +complete or +first_death
    tags, in this order, each only where it says something:
      aN attempts begun   cN crashes   fX flags (c cancel wanted, d has data, m at most once, n start now, r has a
                                                 cursor, s has just put itself off, w waits for other jobs, e ends with
                                                 the command that waits for it; of its unique key: t until it starts,
                                                 y until it succeeds, v for a while anyway; of a batch: b has callbacks,
                                                 o some of its jobs wait for others)
      zN how often it has put itself off   iN how often it was interrupted
      tTASK   qQUEUE   xEXPIRES (13 hex)   uKEY unique key   kKEY what it must not run beside
      gKEY concurrency key   wN weight, where it is not 1
      rUID runs as that user, not as its submitter      oOFFSET of a member: where its line begins in its batch
      jNAME was added to the batch <uid>-NAME
      bLINE.OFFSET.TOTAL a batch: next line, its offset, lines in all      hHASH the bytes that were judged

A name has at most 220 bytes. The file itself is never rewritten, so whatever may change stands here.
"""

from __future__ import annotations

from cronq.job import CALLBACKS, HEX, is_id, is_name, is_whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

MAX_NAME_BYTES = 220
DEFAULT_QUEUE = "default"
LINE = "tab-"  # how the names of the jobs that crontabs make begin
MAIL = "mail-"  # and of the mail about them
POST, CALL = "post-", "call-"  # and of the hooks that their tables name, which are told of them: webhook, command
HOOK = "hook-"  # and of a hook that the configuration names, which is told of any job
_STAMP = 14  # their end: a dash, and the instant
CANCEL_WANTED, HAS_DATA, ATTACHED, AT_MOST_ONCE, START_NOW = "c", "d", "e", "m", "n"
HAS_CURSOR, PUT_OFF, WAITS = "r", "s", "w"
UNTIL_START, WINDOW, UNTIL_SUCCESS = "t", "v", "y"  # how long its unique key is taken
CALLS = "b"  # of a batch: jobs are to run when it has come so far (`callbacks`)
JOBS_WAIT = "o"  # of a batch: some of its jobs wait for others
_FLAGS = "bcdemnorstvwy"
_ORDER = "acfzitqxukgwrojbh"
NONE = -1
_FIELDS = (
    "priority",
    "due",
    "id",
    "attempt",
    "crashes",
    "flags",
    "snoozes",
    "interruptions",
    "task",
    "queue",
    "expires",
    "unique",
    "key",
    "group",
    "weight",
)
_WHERE = ("runs_as", "offset", "into")
_BASE64 = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


class Entry:
    """One job as its file's name says it. Never changed: `but` gives the changed copy for a move."""

    __slots__ = (*_FIELDS, *_WHERE, "batch", "hash")

    priority: int  # -20 … 20
    due: int  # microseconds since the epoch
    id: str
    attempt: int  # attempts begun
    crashes: int  # attempts whose worker died
    flags: str
    snoozes: int  # attempts that put the job off
    interruptions: int  # attempts that cronq ended to go itself
    task: str  # empty: a free command
    queue: str
    expires: int  # microseconds since the epoch; 0: never
    unique: str
    key: str  # nothing else that has it runs at the same time
    group: str  # how many of those that have it run at once, its task says
    weight: int  # for how many it counts
    runs_as: int  # the uid that its attempt runs as; NONE: its submitter
    offset: int  # of a batch's member: where its line begins in the batch's file; NONE: a file of its own
    into: str  # which batch it was added to, without the uid; empty: none
    batch: tuple[int, int, int] | None  # next line (from 0), its offset, lines in all
    hash: str

    def __init__(self, **fields: Any) -> None:
        self.priority = fields.get("priority", 0)
        self.due = fields["due"]
        self.id = fields["id"]
        self.attempt = fields.get("attempt", 0)
        self.crashes = fields.get("crashes", 0)
        self.flags = fields.get("flags", "")
        self.snoozes = fields.get("snoozes", 0)
        self.interruptions = fields.get("interruptions", 0)
        self.task = fields.get("task", "")
        self.queue = fields.get("queue", DEFAULT_QUEUE)
        self.expires = fields.get("expires", 0)
        self.unique = fields.get("unique", "")
        self.key = fields.get("key", "")
        self.group = fields.get("group", "")
        self.weight = fields.get("weight", 1)
        self.runs_as = fields.get("runs_as", NONE)
        self.offset = fields.get("offset", NONE)
        self.into = fields.get("into", "")
        self.batch = fields.get("batch")
        self.hash = fields.get("hash", "")

    def but(self, **changes: Any) -> Self:
        """A copy with these fields changed."""
        return type(self)(**{name: getattr(self, name) for name in self.__slots__} | changes)

    def flagged(self, flag: str) -> Self:
        """A copy that has `flag` too."""
        return self.but(flags="".join(sorted({*self.flags, flag})))

    def unflagged(self, flag: str) -> Self:
        """A copy without `flag`."""
        return self.but(flags=self.flags.replace(flag, ""))

    @property
    def uid(self) -> int:
        """The submitter, by whose inbox the file came."""
        return int(self.id.partition("-")[0])

    @property
    def runner(self) -> int:
        """The uid that its attempt runs as."""
        return self.uid if self.runs_as == NONE else self.runs_as

    @property
    def parent(self) -> str:
        """The id of the batch that this is a member of, by its file or added to it; empty where it is none."""
        if self.into:
            return f"{self.uid}-{self.into}"
        base, _, line = self.id.partition("+")
        return base if is_whole(line) else ""

    @property
    def event(self) -> str:
        """Of a batch's callback: what it is that happened, one of `job.CALLBACKS`; empty for any other job."""
        line = self.id.partition("+")[2]
        return line if line in CALLBACKS else ""

    @property
    def proof(self) -> str:
        """The id of the batch whose file proves this job, a member or a callback; empty where it is none."""
        base, plus, _ = self.id.partition("+")
        return base if plus else ""

    @property
    def line(self) -> str:
        """Of a tick of a crontab's: what tells its line from the others of that user; empty for any other job."""
        name = self.id.partition("-")[2]
        return name[len(LINE) : -_STAMP] if name.startswith(LINE) else ""

    @property
    def about(self) -> str:
        """Of mail about a tick, or a hook that is told of it: what tells that tick's line; empty for any other job."""
        name = self.id.partition("-")[2]
        return name[len(MAIL) : -_STAMP] if name.startswith((MAIL, POST, CALL)) else ""

    @property
    def hook(self) -> str:
        """Of a hook that the configuration names: how, and of whose job it is told; empty for any other job."""
        name = self.id.partition("-")[2]
        return name[len(HOOK) : -_STAMP] if name.startswith(HOOK) else ""

    @property
    def ours(self) -> bool:
        """Whether its file is one that the dispatcher made, though it is a user's job."""
        return bool(self.proof or self.tabled)

    @property
    def tabled(self) -> str:
        """The line of a crontab that this job runs or tells about, or which hook it is; empty for any other."""
        return self.line or self.about or self.hook

    @property
    def errand(self) -> tuple[int, str, str]:
        """Of mail and hooks: which of them wait together for the same receiver."""
        return self.uid, self.queue, self.key

    @property
    def lane(self) -> tuple[str, str, int]:
        """Of one submitter, what passes the same gates: queue, task and weight. A batch starts nothing by itself."""
        return ("", "", 0) if self.batch is not None else (self.queue, self.task, self.weight)

    @property
    def keys(self) -> tuple[str, str]:
        """In one lane, what waits for the same others."""
        return self.key, self.group

    @property
    def order(self) -> tuple[int, int, str]:
        """What sorts in the order of dispatch, as names do: the members of a batch stand before the rest of it."""
        return (-self.priority, self.due, self.id + ",")

    @property
    def name(self) -> str:
        """The file name. Raises `ValueError` where it would be longer than 220 bytes."""
        tags = [
            f"a{self.attempt}" if self.attempt else "",
            f"c{self.crashes}" if self.crashes else "",
            f"f{self.flags}" if self.flags else "",
            f"z{self.snoozes}" if self.snoozes else "",
            f"i{self.interruptions}" if self.interruptions else "",
            f"t{self.task}" if self.task else "",
            f"q{self.queue}" if self.queue != DEFAULT_QUEUE else "",
            f"x{self.expires:013x}" if self.expires else "",
            f"u{self.unique}" if self.unique else "",
            f"k{self.key}" if self.key else "",
            f"g{self.group}" if self.group else "",
            f"w{self.weight}" if self.weight != 1 else "",
            f"r{self.runs_as}" if self.runs_as != NONE else "",
            f"o{self.offset}" if self.offset != NONE else "",
            f"j{self.into}" if self.into else "",
            "b" + ".".join(map(str, self.batch)) if self.batch is not None else "",
            f"h{self.hash}" if self.hash else "",
        ]
        if not (-20 <= self.priority <= 20 and 0 <= self.due < 16**13 and 0 <= self.expires < 16**13):
            raise ValueError(f"priority {self.priority}, due {self.due} or expires {self.expires} does not fit a name")
        name = ",".join([f"{20 - self.priority:02d}", f"{self.due:013x}", self.id, *filter(None, tags)])
        if len(name) > MAX_NAME_BYTES:
            excess = len(name) - MAX_NAME_BYTES
            raise ValueError(f"the names of job, task and queue are {excess} bytes too long together; shorten one")
        return name

    def __repr__(self) -> str:
        return f"<Entry {self.name}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Entry) and self.name == other.name

    __hash__ = None  # type: ignore[assignment]  # entries are looked up by id


def parse(name: str) -> Entry:
    """The entry that a file name says. Raises `ValueError`."""
    level, due, job_id, *tags = name.split(",")
    if len(level) != 2 or not is_whole(level) or int(level) > 40 or not _instant(due) or not is_id(job_id):
        raise ValueError(f"not an entry's name: {name!r}")
    fields: dict[str, Any] = {"priority": 20 - int(level), "due": int(due, 16), "id": job_id}
    last = -1
    for tag in tags:
        letter, value = tag[:1], tag[1:]
        place = _ORDER.find(letter) if letter else -1
        if place <= last or not value:
            raise ValueError(f"not an entry's name (tag {tag!r}): {name!r}")
        last = place
        key, read = _TAGS[letter]
        fields[key] = read(value)
    return Entry(**fields)


def _instant(text: str) -> bool:
    return len(text) == 13 and all(char in HEX for char in text)


def _read_whole(value: str) -> int:
    if not is_whole(value) or len(value) > 6 or value[0] == "0":  # a count of 0 is left out
        raise ValueError(f"not a count: {value!r}")
    return int(value)


def _read_number(value: str) -> int:
    if not is_whole(value) or len(value) > 15:
        raise ValueError(f"not a number: {value!r}")
    return int(value)


def _read_flags(value: str) -> str:
    if "".join(sorted(set(value) & set(_FLAGS))) != value:
        raise ValueError(f"not flags: {value!r}")
    return value


def _read_name(value: str) -> str:
    if not is_name(value, 48):
        raise ValueError(f"not a name: {value!r}")
    return value


def _read_into(value: str) -> str:
    if not is_name(value, 96):
        raise ValueError(f"not a batch's name: {value!r}")
    return value


def _read_instant(value: str) -> int:
    if not _instant(value):
        raise ValueError(f"not an instant: {value!r}")
    return int(value, 16)


def _read_digest(value: str) -> str:
    if not 8 <= len(value) <= 22 or not all(char in _BASE64 for char in value):
        raise ValueError(f"not a digest: {value!r}")
    return value


def _read_batch(value: str) -> tuple[int, int, int]:
    parts = value.split(".")
    if len(parts) != 3 or not all(is_whole(part) and len(part) < 16 for part in parts):
        raise ValueError(f"not a batch's cursor: {value!r}")
    return int(parts[0]), int(parts[1]), int(parts[2])


_TAGS: dict[str, tuple[str, Any]] = {
    "a": ("attempt", _read_whole),
    "c": ("crashes", _read_whole),
    "f": ("flags", _read_flags),
    "z": ("snoozes", _read_whole),
    "i": ("interruptions", _read_whole),
    "t": ("task", _read_name),
    "q": ("queue", _read_name),
    "x": ("expires", _read_instant),
    "u": ("unique", _read_digest),
    "k": ("key", _read_digest),
    "g": ("group", _read_digest),
    "w": ("weight", _read_number),
    "r": ("runs_as", _read_number),
    "o": ("offset", _read_number),
    "j": ("into", _read_into),
    "b": ("batch", _read_batch),
    "h": ("hash", _read_digest),
}


def digest(data: bytes) -> str:
    """The hash of judged bytes as names carry it: 128 bits of SHA-256, 22 letters."""
    import base64
    import hashlib

    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()[:16]).rstrip(b"=").decode()
