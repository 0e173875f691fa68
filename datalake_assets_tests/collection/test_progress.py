"""What a person reads while waiting."""

import pytest

from datalake_assets.collection.progress import Display, Displays, Snapshot, many, verb


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
        "2024-07-03: 4/10 chunks, 1,900 bars, ✓ 1,980 ✗ 20, 7 requests at 210 per minute, 3 s left"
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
    Display().begin("taking the list of assets")


def test_what_is_nothing_is_not_told_and_one_thing_is_told_in_the_singular() -> None:
    assert str(Snapshot("years of 1 symbol", 1, 1)) == "years of 1 symbol: 1/1 chunk"
    alone = Snapshot("2024-07-03", 1, 1, 1, 0, 1, 1, 1, 0, seconds=60)
    assert str(alone) == (
        "2024-07-03: 1/1 chunk, 1 bar, ✓ 1 ✗ 0, 1 request at 1 per minute (1 retry, 0 × 429)"
    )


def test_a_snapshot_can_count_something_else() -> None:
    files = Snapshot("2024 per symbol", 3, 1, unit="file", seconds=2.0)
    assert str(files) == "2024 per symbol: 1/3 files, 4 s left"
    assert (files + files).counted == "2/6 files"


@pytest.mark.parametrize(
    ("count", "thing", "told"),
    [
        (0, "bar", "0 bars"),
        (1, "bar", "1 bar"),
        (1_000, "bar", "1,000 bars"),
        (1, "retry", "1 retry"),
        (2, "retry", "2 retries"),
        (2, "day", "2 days"),
    ],
)
def test_a_number_of_things_is_told_as_a_person_writes_it(
    count: int, thing: str, told: str
) -> None:
    assert many(count, thing) == told


def test_several_displays_are_told_the_same() -> None:
    told: list[object] = []

    class Remembering(Display):
        def begin(self, what: str) -> None:
            told.append(what)

        def show(self, snapshot: Snapshot, *, final: bool) -> None:
            told.append((snapshot, final))

    both = Displays(Remembering(), Remembering())
    both.begin("planning")
    both.show(Snapshot(), final=True)

    assert told == ["planning", "planning", (Snapshot(), True), (Snapshot(), True)]


@pytest.mark.parametrize(("count", "told"), [(0, "0 bars are"), (1, "1 bar is"), (2, "2 bars are")])
def test_a_count_its_noun_and_its_verb_agree(count: int, told: str) -> None:
    assert f"{many(count, 'bar')} {verb(count)}" == told
    assert verb(count, "has", "have") == ("has" if count == 1 else "have")


@pytest.mark.parametrize(
    ("count", "of", "told"),
    [
        (0, 1, "0 of 1 bar is"),
        (1, 1, "1 of 1 bar is"),
        (0, 2, "0 of 2 bars are"),
        (1, 2, "1 of 2 bars is"),
        (2, 2, "2 of 2 bars are"),
    ],
)
def test_the_verb_after_a_part_agrees_with_a_whole_of_one(count: int, of: int, told: str) -> None:
    assert f"{count} of {many(of, 'bar')} {verb(count, of=of)}" == told
