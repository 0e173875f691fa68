"""Pages of bars as bytes: regular ones, drawn at random, and damaged ones.

Belongs here: what a stranger may send, for the tests and for `benchmarks.fuzz_decode`. Does not
belong here: what becomes of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random

from datalake_assets import market_calendar

STAMPS = [
    f"{market_calendar.session_stamp(day):%Y-%m-%dT%H:%M:%SZ}"
    for day in market_calendar.sessions(
        datetime(2011, 1, 3, tzinfo=UTC).date(), datetime(2026, 9, 3, tzinfo=UTC).date()
    )
]
START, END = datetime(1970, 1, 1, tzinfo=UTC), datetime(2199, 12, 31, 23, 59, 59, tzinfo=UTC)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

PIECES = [
    *(b'"', b"\\", b"\\u0041", b"{", b"}", b"[", b"]", b",", b":", b" ", b"\n", b"\0", b"\xc3\xa9"),
    *(b"null", b"true", b"NaN", b"1e5", b"E-7", b"-", b"+", b".", b"0", b"00", b"9" * 19),
    *(b"},{", b"],", b'"x":1,', b'"t":', b'"A":[],', b'"A":null,', b"{}", b"T24:00:00Z", b"-02-30"),
    *(b"\xff", b"\x7f", b"9007199254740993", b"0.30000000000000004", b"18446744073709551616"),
    b"1" * 40,
]
"""What takes a regular page off the rule, or to its limits."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """Draws pages.

    Args:
        random: What from.
        bars: Of a page at most.
    """

    random: Random
    bars: int = 6

    def page(self, *, daily: bool) -> bytes:
        """A regular page that C must take, of daily bars or with any times."""
        symbols = self._symbols(1 + self.random.randrange(3))
        listed = []
        for symbol in symbols:
            count = 1 + self.random.randrange(max(1, self.bars // len(symbols)))
            bars = ",".join(self._bar(self._stamp(daily=daily)) for _ in range(count))
            listed.append(f'"{symbol}":[{bars}]')
        token = self.random.choice(["null", '""', '"TlZEQXxN"', '"QUFQTHxEfDE3ODg0NTU0MA=="'])
        end = self.random.choice(["", "", "\n", " \r\n\t"])
        return f'{{"bars":{{{",".join(listed)}}},"next_page_token":{token}}}{end}'.encode()

    def damaged(self, page: bytes) -> bytes:
        """The page after one to three changes, which may leave it valid."""
        for _ in range(self.random.choice([1, 1, 1, 2, 3])):
            page = self._changed(page)
        return page

    def _changed(self, page: bytes) -> bytes:
        random = self.random
        at = random.randrange(len(page) + 1)
        to = min(len(page), at + random.choice([0, 0, 1, 1, 2, 4, 20, 200]))
        match random.randrange(8):
            case 0:  # a byte
                return page[:at] + bytes([random.randrange(256)]) + page[at + 1 :]
            case 1:  # a bit
                changed = bytearray(page)
                if changed:
                    changed[at - 1] ^= 1 << random.randrange(8)
                return bytes(changed)
            case 2:  # a digit, by another one: often valid
                for place in range(at, len(page)):
                    if page[place : place + 1].isdigit():
                        return page[:place] + b"%d" % random.randrange(10) + page[place + 1 :]
                return page
            case 3:  # a piece, in between or in place of something
                return page[:at] + random.choice(PIECES) + page[to:]
            case 4:  # a time, of a day or an hour that may not be
                place = page.find(b'"t":"', at) + 5
                day = (random.randrange(1900, 2300), random.randrange(14), random.randrange(34))
                clock = (random.randrange(25), random.randrange(61), random.randrange(61))
                time = b"%04d-%02d-%02dT%02d:%02d:%02dZ" % (*day, *clock)
                return page if place < 5 else page[:place] + time + page[place + len(time) :]
            case 5:  # lost
                return page[:at] + page[to:]
            case 6:  # twice
                return page[:to] + page[at:]
            case _:  # cut, and then as many braces as before, so that it can't be told by them
                first = b'{"bars":{"'
                braces = b"}" * random.choice([0, page[at:].count(b"}")])
                return page[:at].replace(first, first + braces, 1)

    def _symbols(self, count: int) -> Sequence[str]:
        known: dict[str, None] = {}
        while len(known) < count:
            name = "".join(self.random.choice(LETTERS) for _ in range(1 + self.random.randrange(5)))
            known[name + self.random.choice(["", "", "", ".A", ".WS", "/B", "p", " "])] = None
        return list(known)

    def _stamp(self, *, daily: bool) -> str:
        if daily:
            return self.random.choice(STAMPS)
        seconds = self.random.randrange(int((END - START).total_seconds()) + 1)
        return f"{START + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%SZ}"

    def _bar(self, stamp: str) -> str:
        close, high, low, opened, vwap = (self._price() for _ in range(5))
        return (
            f'{{"c":{close},"h":{high},"l":{low},"n":{self._count()},"o":{opened},"t":"{stamp}",'
            f'"v":{self._count()},"vw":{vwap}}}'
        )

    def _price(self) -> str:
        """Digits up to 2^53 with a point somewhere, or none."""
        random = self.random
        match random.randrange(8):
            case 0:
                return str(random.choice([0, 1, 9, 10, 1 << 52, (1 << 53) - 1, 1 << 53]))
            case 1:  # as many digits as there can be
                digits = str(random.randrange((1 << 53) + 1))
            case 2:
                digits = str(random.randrange(10 ** random.randrange(1, 16)))
            case 3:  # small ones
                zeros = random.randrange(18)
                return f"0.{'0' * zeros}{random.randrange(10 ** (18 - zeros)) % (1 << 53):d}"[:20]
            case _:  # what shares cost
                return (
                    f"{random.randrange(10**7) / 10 ** random.randrange(7):.6f}".rstrip("0") + "0"
                )
        point = random.randrange(1, len(digits) + 1)
        return f"{digits[:point]}.{digits[point:]}" if point < len(digits) else digits

    def _count(self) -> str:
        random = self.random
        if random.randrange(8):
            return str(random.randrange(10 ** random.randrange(1, 9)))
        return str(random.choice([0, 1, 10**18 - 1, random.randrange(10**18)]))
