"""The compiled decoder against the one in Python, on pages that a stranger might send.

    python -m benchmarks.fuzz_decode [--pages 1000000] [--seed 1] [--sanitize]

One page in ten is regular, with prices, counts and times up to the limits: C must take it. The
others were damaged, byte by byte and piece by piece: C may take one or refuse it. Whatever it takes
must be, bit by bit, what msgspec reads. Each page lies in memory that ends where it ends, so that a
read beyond it is one beyond that memory.

`--sanitize` builds the extension once more, in a folder of its own, with gcc's AddressSanitizer and
UndefinedBehaviorSanitizer, and runs in a process that has them. It ends at the first difference and
at the first finding.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from random import Random
from typing import cast

import msgspec
import numpy as np

from datalake_assets.sources import pages
from datalake_assets_tests.sources.sent_pages import Drawn

SOURCE = Path(pages.__file__).with_name("_pages.c")
EACH = 10  # pages, of which the first is regular, and the others are that one, damaged
WARNINGS = "-Wall -Wextra -Wconversion -Wshadow -Wcast-qual -Werror"
SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=all"  # each finding is the end
BUILT = "DATALAKE_FUZZED_EXTENSION"  # for the process that has the sanitizers


def main() -> None:
    """Fuzz, and tell what was taken and what was refused."""
    given = _arguments()
    if given.sanitize:
        sys.exit(_sanitized(given))
    built = os.environ.get(BUILT)
    parse = _parse_of(Path(built)) if built else pages.COMPILED
    if parse is None:
        sys.exit("there is no compiled decoder here: install with a compiler, or --sanitize")
    told, began = Counter[str](), time.perf_counter()
    drawn = Drawn(Random(given.seed))
    regular = b""
    for number in range(given.pages):
        kind = "damaged" if number % EACH else "regular"
        daily = number // EACH % 8 == 0
        if kind == "regular":
            regular = drawn.page(daily=daily)
        page = regular if kind == "regular" else drawn.damaged(regular)
        try:
            taken = compare(page, parse, daily=daily)
            assert taken or kind == "damaged", "a regular page was refused"
        except (AssertionError, ValueError, msgspec.MsgspecError) as error:
            sys.exit(f"page {number} of seed {given.seed}: {error}\n{page!r}")
        told[f"{kind}, {'taken' if taken else 'refused'}"] += 1
        told["bytes"] += len(page)
    seconds = time.perf_counter() - began
    how = "with sanitizers" if built else "as installed"
    print(f"{given.pages:,} pages, seed {given.seed}, {how}: no difference, {seconds:,.0f} s")
    for what, count in sorted(told.items()):
        print(f"  {what}: {count:,}")


def compare(page: bytes, parse: pages.Parse, *, daily: bool = True) -> bool:
    """Hold the two decoders against each other.

    Args:
        page: As it was sent.
        parse: The compiled decoder.
        daily: Compare it as a page of daily bars, too.

    Returns:
        Did C take the page?

    Raises:
        AssertionError: They read different things.
    """
    # Memory of just this size. Bytes have one more at their end, an array has some to grow.
    alone = (ctypes.c_char * len(page)).from_buffer_copy(page)
    found = pages.regular_columns(alone, parse)  # type: ignore[arg-type]
    if found is None:
        return False
    columns, token = found
    answer = pages.decoder.decode(page)
    assert answer.bars is not None, "C read bars where there are none"
    assert page.count(b"[") == len(answer.bars), "C took a symbol that is there twice"
    assert token == (answer.next_page_token or None), "another token"
    expected = pages.typed_columns(answer.bars)
    assert list(columns.symbols) == list(expected.symbols), "other symbols"
    for name, ours, theirs in zip(columns._fields[1:], columns[1:], expected[1:], strict=True):
        assert isinstance(ours, np.ndarray)
        assert isinstance(theirs, np.ndarray)
        assert ours.tobytes() == theirs.tobytes(), f"other values of {name}"
    if daily and (whole := pages.decode_regular(page, parse)) is not None:
        assert whole == pages.decode(page), "another page"
    return True


def _parse_of(path: Path) -> pages.Parse:
    """The decoder of an extension that lies elsewhere than where it was installed."""
    loader = ExtensionFileLoader("_pages", str(path))
    spec = spec_from_file_location("_pages", path, loader=loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return cast("pages.Parse", module.parse)


def _sanitized(given: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "_pages.so"
        # No recovery, and every finding is the end; leaks are Python's own, of its modules.
        include = sysconfig.get_paths()["include"]
        command = f"gcc -std=c11 -O1 -g -shared -fPIC {WARNINGS} {SANITIZERS} -I{include}"
        subprocess.run([*command.split(), SOURCE, "-o", path], check=True)
        libraries = [_output("gcc", f"-print-file-name=lib{name}.so") for name in ("asan", "ubsan")]
        environment = os.environ | {
            BUILT: str(path),
            "LD_PRELOAD": " ".join(libraries),
            "PYTHONMALLOC": "malloc",  # so that each object has memory of its own
            "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",  # leaks are Python's own, at its end
            "UBSAN_OPTIONS": "print_stacktrace=1",
        }
        again = [sys.executable, "-m", "benchmarks.fuzz_decode"]
        arguments = [f"--pages={given.pages}", f"--seed={given.seed}"]
        return subprocess.run([*again, *arguments], env=environment, check=False).returncode


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pages", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sanitize", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
