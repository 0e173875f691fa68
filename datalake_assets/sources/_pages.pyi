from typing_extensions import Buffer

def parse(page: Buffer, /) -> tuple[tuple[str, ...], bytes, bytes, str | None] | None:
    """Read a regular page of bars into columns; None if it is not regular.

    Python's lock is released meanwhile.

    Args:
        page: The bytes, which must not change meanwhile.

    Returns:
        The symbols in the order of the page (a symbol can come twice); how many bars each has, as
        int64; eight columns of eight bytes a bar, one after the other: instant (microseconds since
        1970), open, high, low, close, vwap (double), volume, number of trades (int64); and the
        token of the next page.

    Raises:
        MemoryError: There is not enough for the columns.
    """
