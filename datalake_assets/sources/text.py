"""Sanitizing text of the source for display.

Belongs here: replacing characters that a terminal, a log or a file should not get. Does
not belong here: what the text means.
"""

from __future__ import annotations


def visible(text: str) -> str:
    r"""The text with non-printable characters escaped, such as `\x1b`.

    Control characters can recolour, move and erase a terminal's content. Characters that change the
    direction of writing, lone surrogates (which no file accepts), and unusual spaces are escaped,
    too.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def line(text: str, most: int | None = None) -> str:
    """The text as one line, with white space collapsed.

    Args:
        text: Whatever the source sent.
        most: The most characters to keep; None: all.
    """
    return visible(" ".join(text.split()))[:most]
