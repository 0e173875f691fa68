"""Another user, whom the modes of files bind: root, as whom tests often run, may read all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

NOBODY = 65534


@contextmanager
def as_nobody() -> Iterator[None]:
    """Within it, this process has no more rights than the owner of nothing but its own files.

    All of its threads change their user at once. What is imported only now may not be readable
    any more: import it before.
    """
    if os.getuid() != 0:  # an ordinary user is bound anyway
        yield
        return
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
