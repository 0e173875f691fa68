"""Text of the source, made fit to be shown: the one place through which it enters.

Belongs here: what stands in for characters that a terminal, a log or a file should not get. Does
not belong here: what the text means.
"""

from __future__ import annotations


def visible(text: str) -> str:
    r"""The text with each character that does not print spelled out, as `\x1b` for an escape.

    A terminal obeys control characters: they recolour, move and erase what stands there. Those
    that turn the direction of writing, and half surrogates, which no file takes, are spelled out
    too; so are spaces other than the usual one.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def line(text: str, most: int | None = None) -> str:
    """The text in one visible line, its runs of spaces and line breaks as one space each.

    Args:
        text: Whatever the source sent.
        most: Characters that are kept; None: all.
    """
    return visible(" ".join(text.split()))[:most]
