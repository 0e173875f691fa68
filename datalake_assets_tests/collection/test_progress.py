"""What a person reads while waiting."""

import pytest

from datalake_assets.collection.progress import Display, Snapshot


def test_a_snapshot_reads_as_one_line_with_what_went_well_and_what_did_not() -> None:
    snapshot = Snapshot(
        label="2024-07-03",
        chunks=10,
        chunks_done=4,
        symbols_ok=1_980,
        symbols_failed=20,
        bars=1_900,
        requests=7,
        seconds=2.0,
    )
    assert str(snapshot) == (
        "2024-07-03: 4/10 chunks, 1,900 bars, ✓ 1,980 ✗ 20, 7 requests at 210 a minute, 3 s left"
    )


def test_retries_are_told_when_there_were_any() -> None:
    assert "7 requests (3 retries, 1 × 429)" in str(Snapshot(requests=7, retries=3, throttled=1))
    assert "retries" not in str(Snapshot(requests=7))


@pytest.mark.parametrize(
    ("done", "of", "seconds", "left"), [(0, 4, 9.0, None), (1, 4, 9.0, 27.0), (4, 4, 9.0, 0.0)]
)
def test_the_time_left_is_that_of_the_pace_so_far(
    done: int, of: int, seconds: float, left: float | None
) -> None:
    assert Snapshot(chunks=of, chunks_done=done, seconds=seconds).seconds_left == left


def test_a_display_of_nothing_takes_every_snapshot() -> None:
    Display().show(Snapshot(), final=False)
    Display().show(Snapshot(), final=True)
