"""Root's tables as the dispatcher asks for them: one by one, however long its turns take."""

import os

from cronq.listing import ANSWER_WITHIN, Listing
from cronq.shelves import Shelves
from cronq.spool import make
from cronq.tables import Tables


class Asked:
    """Who passes questions on to the launcher: here they are only written down."""

    def __init__(self):
        self.tables, self.numbers = [], []

    def crontab(self, number):
        self.numbers.append(number)


def test_each_answer_has_its_own_time_and_a_launcher_that_gives_none_is_given_up(tmp_path):
    make(str(tmp_path / "spool"), os.getuid())
    (tmp_path / "config" / "cron.d").mkdir(parents=True)
    shelves = Shelves(str(tmp_path / "spool"), os.getuid())
    tables, asked = Tables(shelves, str(tmp_path / "config")), Asked()
    listing = Listing(tables, asked, str(tmp_path / "config"))
    now = 100.0
    listing.turn(now, now, machine=False)
    for number in range(5):
        assert (asked.numbers[-1], listing.busy) == (number, True)
        now += ANSWER_WITHIN * 0.9
        asked.tables = [({"table": "/nowhere", "number": number, "of": 5}, None)]
        listing.turn(now, now, machine=False)
    assert (asked.numbers, listing.busy, tables.complete) == ([0, 1, 2, 3, 4], False, True)
    os.utime(tmp_path / "config" / "cron.d", (1, 1))
    listing.turn(now + 2, now + 2, machine=False)
    assert listing.busy
    listing.turn(now + 2 + ANSWER_WITHIN * 1.1, now + 2 + ANSWER_WITHIN * 1.1, machine=False)
    assert not listing.busy
    shelves.close()
