"""What the environment may say, and what is answered when it says something else."""

import re
from collections.abc import Callable
from dataclasses import fields
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datalake_assets import market_calendar
from datalake_assets.settings import FEEDS, SETTINGS, Settings, SettingsError

KEYS = {"ALPACA_API_KEY": "PKTESTKEY", "ALPACA_SECRET_KEY": "s3cr3t/value"}
TODAY = date(2024, 7, 3)


def load(**environ: str) -> Settings:
    return Settings.load(environ, today=TODAY)


def problems(**environ: str) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load(**environ)
    assert all(problem in str(caught.value) for problem in caught.value.problems)
    return caught.value.problems


def problem(**environ: str) -> str:
    (line,) = problems(**environ)
    return line


def test_an_empty_environment_means_the_embedded_exchange_and_the_documented_defaults() -> None:
    settings = load()
    assert settings.source == "embedded"
    assert settings.alpaca_api_key is None
    assert settings.alpaca_secret_key is None
    assert settings.alpaca_data_url is None
    assert settings.alpaca_trading_url is None
    assert settings.alpaca_feed == "sip"
    assert settings.requests_per_minute == 200
    assert settings.history_start == date(2016, 1, 4)
    assert settings.lake_uri == ".datalake/embedded"
    assert settings.start_date == date(2011, 1, 3)
    assert settings.read_symbols() is None
    assert settings.max_workers == 20
    assert settings.rate_limit is None


def test_both_keys_mean_alpaca_and_a_lake_of_its_own() -> None:
    settings = load(**KEYS)
    assert settings.source == "alpaca"
    assert settings.lake_uri == ".datalake/lake"
    assert settings.alpaca_api_key == "PKTESTKEY"
    assert settings.alpaca_secret_key == "s3cr3t/value"


def test_everything_that_is_set_is_used() -> None:
    settings = load(
        **KEYS,
        ALPACA_DATA_URL="https://data.sandbox.alpaca.markets/",
        ALPACA_TRADING_URL="http://127.0.0.1:8080",
        ALPACA_FEED="iex",
        ALPACA_REQUESTS_PER_MINUTE="10000",
        ALPACA_HISTORY_START="2016-02-01",
        DATALAKE_URI="s3://bars/lake",
        DATALAKE_START_DATE="2020-01-02",
        DATALAKE_SYMBOLS="aapl, BRK.B,MSFT,AAPL",
        DATALAKE_MAX_WORKERS="64",
        DATALAKE_RATE_LIMIT="postgresql://lake:p%40ss@db:5432/lake?sslmode=require",
    )
    assert settings.alpaca_data_url == "https://data.sandbox.alpaca.markets"
    assert settings.alpaca_trading_url == "http://127.0.0.1:8080"
    assert settings.alpaca_feed == "iex"
    assert settings.requests_per_minute == 10000
    assert settings.history_start == date(2016, 2, 1)
    assert settings.lake_uri == "s3://bars/lake"
    assert settings.start_date == date(2020, 1, 2)
    assert settings.read_symbols() == ("AAPL", "BRK.B", "MSFT")
    assert settings.max_workers == 64
    assert settings.rate_limit == "postgresql://lake:p%40ss@db:5432/lake?sslmode=require"


def test_the_environment_of_the_process_is_read_when_none_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATALAKE_MAX_WORKERS", "7")
    assert Settings.load().max_workers == 7


def test_an_empty_variable_counts_as_not_set() -> None:
    assert load(**dict.fromkeys((s.variable for s in SETTINGS), "  ")) == load()


@pytest.mark.parametrize("given_one", list(KEYS))
def test_a_half_given_pair_of_keys_names_the_missing_variable(given_one: str) -> None:
    (missing,) = set(KEYS) - {given_one}
    line = problem(**{given_one: KEYS[given_one]})
    assert line == f"{missing} is not set, but {given_one} is; set both, or neither"


@pytest.mark.parametrize("url", ["ALPACA_DATA_URL", "ALPACA_TRADING_URL"])
def test_a_host_without_keys_is_half_given_and_names_what_is_missing(url: str) -> None:
    line = problem(**{url: "https://data.sandbox.alpaca.markets"})
    assert line.startswith(f"{url} is set, but ALPACA_API_KEY and ALPACA_SECRET_KEY are not")


@pytest.mark.parametrize(
    ("variable", "lowest", "highest"),
    [("ALPACA_REQUESTS_PER_MINUTE", 1, 1_000_000), ("DATALAKE_MAX_WORKERS", 1, 1000)],
)
def test_a_number_is_accepted_at_its_bounds_and_refused_beyond(
    variable: str, lowest: int, highest: int
) -> None:
    for number in (lowest, highest):
        assert load(**{variable: str(number)}).shown()[variable] == str(number)
    for number in (lowest - 1, highest + 1):
        line = problem(**{variable: str(number)})
        assert line == f"{variable}='{number}' must be a whole number from {lowest} to {highest}"


@pytest.mark.parametrize("text", ["-5", "2.5", "1e3", "1_000", "+20", "twenty", "٢٠", "1 0"])
def test_a_number_that_is_not_written_as_one_is_refused(text: str) -> None:
    line = problem(DATALAKE_MAX_WORKERS=text)
    assert line.startswith(f"DATALAKE_MAX_WORKERS={text!r} must be a whole number")


@pytest.mark.parametrize(
    "text", ["2024-02-30", "20240102", "2024-W01-2", "02/01/2024", "1999-12-31", "2036-01-01"]
)
@pytest.mark.parametrize("variable", ["DATALAKE_START_DATE", "ALPACA_HISTORY_START"])
def test_a_date_that_is_none_or_unknown_to_the_calendar_is_refused(
    variable: str, text: str
) -> None:
    line = problem(**{variable: text})
    assert line.startswith(
        f"{variable}={text!r} must be a date YYYY-MM-DD from 2000-01-01 to 2035-12-31"
    )


def test_a_start_date_may_be_today_but_not_tomorrow() -> None:
    assert load(DATALAKE_START_DATE="2024-07-03").start_date == TODAY
    assert problem(DATALAKE_START_DATE="2024-07-04") == (
        "DATALAKE_START_DATE='2024-07-04' must not be after today, 2024-07-03"
    )


@pytest.mark.parametrize("feed", FEEDS)
def test_every_feed_of_alpaca_is_accepted(feed: str) -> None:
    assert load(ALPACA_FEED=feed).alpaca_feed == feed


@pytest.mark.parametrize("minutes", ["0", "59", "1441"])
def test_a_session_is_never_collected_sooner_than_it_can_be_all_year(minutes: str) -> None:
    line = problem(DATALAKE_COLLECT_AFTER_MINUTES=minutes)
    assert line.endswith("must be a whole number from 60 to 1440")
    assert load().collect_after_minutes == 60


@pytest.mark.parametrize("text", ["yes", "1", "true", "on off"])
def test_automation_is_on_or_off(text: str) -> None:
    assert problem(DATALAKE_AUTOMATION=text) == f"DATALAKE_AUTOMATION={text!r} must be on or off"
    assert load(DATALAKE_AUTOMATION="OFF").automation == "off"


def test_an_unknown_feed_is_answered_with_the_known_ones() -> None:
    assert (
        problem(ALPACA_FEED="nasdaq") == "ALPACA_FEED='nasdaq' must be one of sip, iex, otc, boats"
    )


@pytest.mark.parametrize(
    "text",
    [
        "data.alpaca.markets",
        "ftp://data.alpaca.markets",
        "https://",
        "https:///v2",
        "https://host:notaport",
        "https://[::1",
        "https://host/?feed=sip",
        "https://host/#bars",
    ],
)
def test_an_address_that_no_http_client_can_use_is_refused(text: str) -> None:
    assert problem(**KEYS, ALPACA_DATA_URL=text).startswith("ALPACA_DATA_URL=")


@pytest.mark.parametrize(
    "text",
    [
        "https://hooks.slack.com/services/T0/B0/x",
        "http://127.0.0.1:8080/hook?token=x",
        "https://[::1]:8443/hook",
        "https://bücher.example/hook",
    ],
)
def test_a_webhook_may_be_any_address_that_can_be_asked(text: str) -> None:
    assert load(DATALAKE_ALERT_WEBHOOK=text).alert_webhook == text


@pytest.mark.parametrize(
    "text",
    [
        "hooks.slack.com/SECRET",
        "ftp://hooks.slack.com/SECRET",
        "https:///SECRET",
        "https://:443/SECRET",
        # The first alert would end in an error of the client, each minute anew.
        "https://hooks..slack.com/SECRET",
        f"https://{'a' * 64}.com/SECRET",
        "https://hooks.slack.com:99999/SECRET",
        "https://hooks.slack.com:https/SECRET",
        # The parser's own errors repeat these.
        "https://lake:SECRET\u2100@host/x",
        "https://[SECRET]/x",
        # Not sent, so the receiver would refuse each alert.
        "https://lake:SECRET@host/x",
    ],
)
def test_a_webhook_that_nobody_can_ask_is_refused_without_repeating_it(text: str) -> None:
    line = problem(DATALAKE_ALERT_WEBHOOK=text)
    assert line.startswith("DATALAKE_ALERT_WEBHOOK (not shown) must be a URL like")
    assert "SECRET" not in line


@pytest.mark.parametrize(
    "text",
    [
        "mailto://lake:SECRET@example.com?to=ann@example.com",
        "  tgram://1:SECRET/2\n msteams://team/SECRET  ",
        "https://hooks.slack.com/services/SECRET",
        "pagerduty://SECRET@SECRET, json://host",  # Apprise would take it for a part of the first
    ],
)
def test_urls_of_alerts_are_separated_by_spaces(text: str) -> None:
    assert load(DATALAKE_ALERT_URLS=text).alert_urls == tuple(text.split())


@pytest.mark.parametrize(
    "text", ["SECRET", "mailto:SECRET@host", "mailto://", "://SECRET", "x:///"]
)
def test_a_url_of_an_alert_without_scheme_or_host_is_refused_without_repeating_it(
    text: str,
) -> None:
    line = problem(DATALAKE_ALERT_URLS=f"json://host {text}")
    assert line.startswith("DATALAKE_ALERT_URLS (not shown) must be URLs of Apprise like")
    assert "SECRET" not in line


@pytest.mark.parametrize(
    "uri",
    [
        "lake",
        "./lake",
        "/srv/lake",
        "~/lake",
        "file:///srv/lake",
        "s3://bars",
        "s3://bars/",
        "s3://my.bars-2/a/b",
        "memory://",
    ],
)
def test_a_lake_may_be_a_folder_a_bucket_or_memory(uri: str) -> None:
    assert load(DATALAKE_URI=uri).lake_uri == uri


@pytest.mark.parametrize(
    "uri",
    [
        "s3://",
        "s3:///prefix",
        "s3://B",
        "s3://UPPER/x",
        "s3://bars/x?versionId=1",
        "s3://bars/x#y",
        "s3://bars/../other",
        "s3://bars//x",
        "s3://key:secret@bars",
        "gs://bars",
        "https://bars.s3.amazonaws.com",
        "file://srv/lake",
        "memory://name",
        "://x",
        "~no-such-user-here/lake",
        "la\0ke",
    ],
)
def test_a_lake_that_no_store_can_open_is_refused(uri: str) -> None:
    line = problem(DATALAKE_URI=uri)
    assert line.startswith("DATALAKE_URI=")
    assert "must be a local path, file:///path, s3://bucket/prefix or memory://" in line


@pytest.mark.parametrize(
    "dsn", ["postgresql://db/lake", "postgres://lake@db", "postgresql:///lake?host=/run/postgresql"]
)
def test_a_rate_limit_may_be_kept_by_any_postgres(dsn: str) -> None:
    assert load(DATALAKE_RATE_LIMIT=dsn).rate_limit == dsn


@pytest.mark.parametrize(
    "dsn",
    [
        "redis://db",
        "db.example/lake",
        "host=db password=hunter2",
        "mysql://lake:hunter2@db/lake",
        # Parts of these passwords would be a host, a port or an option to libpq, and be told.
        "postgresql://lake:hun@ter2@db/lake",
        "postgresql://lake:hun/ter2@db/lake",
        "postgresql://lake:hun?ter2@db/lake",
        "postgresql://lake:hun#ter2@db/lake",
        "postgresql://lake:12/hunter2@db/lake",
        "postgresql://lake:hunter2@[db/lake",
        "postgresql://lake:hunter2@db:port/lake",
    ],
)
def test_a_rate_limit_that_no_postgres_can_keep_is_refused_without_repeating_it(dsn: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(DATALAKE_RATE_LIMIT=dsn)
    (line,) = caught.value.problems
    assert line.startswith(
        "DATALAKE_RATE_LIMIT (not shown) must be like postgresql://user:password@host:5432/name"
    )
    assert "hun" not in line
    assert "ter2" not in line
    assert not caught.value.__cause__
    assert not caught.value.__context__


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("DATALAKE_URL", "DATALAKE_URI"),
        ("DATALAKE_WORKERS", "DATALAKE_MAX_WORKERS"),
        ("DATALAKE_SYMBOL", "DATALAKE_SYMBOLS"),
        ("ALPACA_SECRETKEY", "ALPACA_SECRET_KEY"),
        ("ALPACA_FEEDS", "ALPACA_FEED"),
    ],
)
def test_a_misspelt_name_is_refused_with_the_one_that_was_meant_or_only_warned_of(
    name: str, meant: str
) -> None:
    told = f"{name} is not a setting; did you mean {meant}?"
    assert problem(**{name: "do-not-show-me"}) == told

    with pytest.warns(UserWarning, match=re.escape(told)) as warned:
        found = Settings.load({name: "do-not-show-me"}, today=TODAY, misspelt="warn")

    assert found == load()
    assert "do-not-show-me" not in str(warned[0].message)


@pytest.mark.parametrize(
    "name",
    [
        "ALPACA_BASE_URL",
        "ALPACA_PAPER",
        "ALPACA_API_BASE_URL",
        "ALPACA_API_KEY_ID",
        "ALPACA_API_SECRET_KEY",
        "ALPACA_API_SECRET",
        "APCA_API_KEY_ID",
        "DATALAKE_BUCKET",
        "DATALAKE_DATABASE_PASSWORD",
        "AWS_REGION",
        "datalake_uri",
    ],
)
def test_names_of_other_programs_are_left_alone(name: str) -> None:
    assert load(**{name: "x"}) == load()
    assert Settings.load({name: "x"}, today=TODAY, misspelt="warn") == load()  # and no warning


def test_a_name_like_that_of_a_setting_which_is_set_is_another_program_s() -> None:
    assert load(DATALAKE_URI="here", DATALAKE_URL="there") == load(DATALAKE_URI="here")


def test_everything_that_is_wrong_is_told_at_once_one_line_each() -> None:
    lines = problems(
        ALPACA_API_KEY="PKTESTKEY",
        ALPACA_FEED="x",
        DATALAKE_URI="gs://x",
        DATALAKE_MAX_WORKERS="0",
        DATALAKE_SYMBOL="x",
    )
    assert [re.split("[= ]", line)[0] for line in lines] == [
        "DATALAKE_SYMBOL",
        "ALPACA_FEED",
        "DATALAKE_URI",
        "DATALAKE_MAX_WORKERS",
        "ALPACA_SECRET_KEY",
    ]
    assert str(SettingsError(lines)).splitlines()[0] == "5 settings are wrong:"
    assert len(str(SettingsError(lines)).splitlines()) == 6


def test_a_secret_is_in_no_text_of_the_settings() -> None:
    settings = load(**KEYS)
    for text in (repr(settings), str(settings), f"{settings}", str(settings.shown())):
        assert not any(secret in text for secret in KEYS.values())
    assert settings.shown()["ALPACA_API_KEY"] == "set"
    assert load().shown()["ALPACA_API_KEY"] == "not set"
    kept = load(DATALAKE_RATE_LIMIT="postgresql://lake:hunter2@db/lake")
    assert kept.shown()["DATALAKE_RATE_LIMIT"] == "set"
    assert "hunter2" not in f"{kept!r} {kept.shown()}"


def test_a_secret_is_in_no_error_either() -> None:
    lines = problems(
        ALPACA_API_KEY="PK with a space",
        ALPACA_SECRET_KEY="a secret with a space",
        ALPACA_DATA_URL="https://user:p4ss/w@rd@host",
        DATALAKE_URI="s3://AKIAKEY:hunter2@bars/x?token=t0ken",
    )
    assert len(lines) == 4
    for secret in ("a space", "p4ss", "w@rd", "user", "AKIAKEY", "hunter2", "t0ken"):
        assert not any(secret in line for line in lines), secret


@pytest.mark.parametrize(
    ("environ", "first"),
    [
        ({}, date(2011, 1, 3)),
        ({"DATALAKE_START_DATE": "2005-03-01"}, date(2011, 1, 3)),  # before the exchange's market
        ({"DATALAKE_START_DATE": "2012-10-28"}, date(2012, 10, 31)),  # a Sunday, then Sandy
        ({"DATALAKE_START_DATE": "2024-01-01"}, date(2024, 1, 2)),
        ({"DATALAKE_START_DATE": "2024-01-02"}, date(2024, 1, 2)),
        ({**KEYS}, date(2016, 1, 4)),
        ({**KEYS, "DATALAKE_START_DATE": "2016-01-03"}, date(2016, 1, 4)),
        ({**KEYS, "DATALAKE_START_DATE": "2016-01-05"}, date(2016, 1, 5)),
        ({**KEYS, "ALPACA_HISTORY_START": "2009-07-04"}, date(2011, 1, 3)),
        ({"ALPACA_HISTORY_START": "2020-01-02"}, date(2011, 1, 3)),  # of no concern without keys
    ],
)
def test_the_first_session_is_the_first_that_is_asked_for_and_that_the_source_has(
    environ: dict[str, str], first: date
) -> None:
    assert load(**environ).first_session == first


def test_symbols_come_from_a_file_with_commas_lines_and_comments(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\ufeffAAPL, msft\n# a comment, with commas\nBRK.B  # Berkshire\n\nAAPL\n")
    settings = load(DATALAKE_SYMBOLS=f"@{names}")
    assert settings.read_symbols() == ("AAPL", "MSFT", "BRK.B")


def test_in_a_list_of_symbols_nothing_is_a_comment_that_takes_the_rest_with_it() -> None:
    assert "not valid: '#MSFT'" in problem(DATALAKE_SYMBOLS="AAPL,#MSFT,GOOG")


def test_the_symbols_file_is_not_read_when_the_settings_load(tmp_path: Path) -> None:
    names = tmp_path / "later.txt"
    settings = load(DATALAKE_SYMBOLS=f"@{names}")
    names.write_text("AAPL")
    assert settings.read_symbols() == ("AAPL",)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "No such file or directory"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.write_bytes(b"\xff\xfeA\x00"), "not text in UTF-8"),
        (lambda path: path.write_text("\n# only a comment\n"), "must hold at least one symbol"),
        (lambda path: path.write_text("AAPL\nBRK-B\n"), "not valid: 'BRK-B'"),
    ],
)
def test_a_symbols_file_that_is_no_use_names_the_variable_the_file_and_the_reason(
    tmp_path: Path, make: Callable[[Path], object], reason: str
) -> None:
    names = tmp_path / "names.txt"
    make(names)
    settings = load(DATALAKE_SYMBOLS=f"@{names}")
    with pytest.raises(SettingsError) as caught:
        settings.read_symbols()
    (line,) = caught.value.problems
    assert line.startswith(f"DATALAKE_SYMBOLS='@{names}' names a file")
    assert reason in line


@pytest.mark.parametrize("text", ["BRK-B", "TAOP:NASDAQ", "0029900E0", "A..B", ".A", "A.", "$SPX"])
def test_a_symbol_that_can_be_no_ticker_is_named(text: str) -> None:
    line = problem(DATALAKE_SYMBOLS=f"AAPL,{text}")
    assert line.endswith(f"must hold symbols like AAPL or BRK.B; not valid: {text!r}")


def test_a_long_list_of_bad_symbols_is_cut_short() -> None:
    line = problem(DATALAKE_SYMBOLS=",".join(f"A{number}" for number in range(100)))
    assert line.endswith("not valid: 'A0', 'A1', 'A2', 'A3', 'A4' and 95 more")
    assert len(line) < 300


def test_a_symbols_list_without_a_symbol_or_a_file_name_is_refused() -> None:
    assert "at least one symbol" in problem(DATALAKE_SYMBOLS=" , ,")
    assert "must name a file after the @" in problem(DATALAKE_SYMBOLS="@")


@given(st.lists(st.from_regex(r"[A-Za-z]{1,5}(\.[A-Za-z])?", fullmatch=True), min_size=1))
def test_read_symbols_are_upper_case_unique_and_in_the_order_given(names: list[str]) -> None:
    symbols = load(DATALAKE_SYMBOLS=",".join(names)).read_symbols()
    assert symbols is not None
    assert list(symbols) == list(dict.fromkeys(name.upper() for name in names))


variables = st.sampled_from([setting.variable for setting in SETTINGS])


@given(st.dictionaries(variables, st.text(max_size=30), max_size=6))
def test_any_environment_gives_usable_settings_or_an_error_that_names_variables(
    environ: dict[str, str],
) -> None:
    try:
        settings, lines = load(**environ), None
    except SettingsError as error:
        settings, lines = None, error.problems
    if settings is None:
        known = tuple(setting.variable for setting in SETTINGS)
        assert lines
        assert all(line.startswith(known) for line in lines)
    else:
        assert market_calendar.is_session(settings.first_session)
        assert settings.requests_per_minute >= 1
        assert settings.max_workers >= 1


def test_each_setting_is_declared_once_with_its_meaning_and_a_default_that_parses() -> None:
    assert [setting.field for setting in SETTINGS] == [field.name for field in fields(Settings)]
    assert len({setting.variable for setting in SETTINGS}) == len(SETTINGS)
    for setting in SETTINGS:
        assert setting.meaning
        if setting.default is not None:
            assert str(setting.parse(setting.default)) == setting.default
