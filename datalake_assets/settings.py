"""The environment variables that configure the program: name, meaning, unit, default, valid values.

Each is declared once, in `SETTINGS`, and read once, by `Settings.load`. Only the calendar reads
`DATALAKE_CLOSURES` itself, since all callers must get the same answer. Belongs here: syntax and
rules between settings. Does not belong here: whether a bucket, host or key works (the store and the
source report that), AWS's own variables (its standard chain reads them), and the options of one run
(fields of the collector's resource, whose defaults these are).
"""

import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import unquote, urlsplit

from datalake_assets import market_calendar

FEEDS = ("sip", "iex", "otc", "boats")
LAKE_OF_ALPACA = ".datalake/lake"
LAKE_OF_EXCHANGE = ".datalake/embedded"
EXCHANGE_START = date(2011, 1, 3)  # the first session of the embedded exchange's market

_NEAR = {"DATALAKE_": 0.85, "ALPACA_": 0.91}
"""How similar (difflib) two names must be for one to count as a misspelling of the other.
DATALAKE_WORKERS and DATALAKE_MAX_WORKERS have 0.89. Other programs have names that begin with
ALPACA_, among them ALPACA_API_KEY_ID, with 0.90."""

_SYMBOL = re.compile(r"[A-Z]+(\.[A-Z]+)*")
_FOLDER = re.compile(r"(?!\.\.?$)[A-Za-z0-9._=-]+")


class SettingsError(ValueError):
    """The environment is invalid; `problems` has one line per wrong setting.

    A line names the variable, its value (never a secret) and what is valid.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        head = "1 setting is" if len(self.problems) == 1 else f"{len(self.problems)} settings are"
        super().__init__("\n  ".join((f"{head} wrong:", *self.problems)))


@dataclass(frozen=True, slots=True)
class Setting:
    """One environment variable.

    `field` is its name in `Settings`, `default` the text of its default (None: not set), `parse`
    turns text into a value or raises ValueError with what is valid, without repeating the text.
    """

    variable: str
    field: str
    default: str | None
    unit: str
    meaning: str
    parse: Callable[[str], object]
    secret: bool = False


def _key(text: str) -> str:
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError("must be a key: printable ASCII without spaces")
    return text


def _url(text: str) -> str:
    legal = "must be a URL like https://data.sandbox.alpaca.markets"
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port  # raises if the port is not a number
    except ValueError as error:
        raise ValueError(legal) from error
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(f"{legal}: http or https, and a host")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError(f"{legal}: without user, password, query or fragment")
    return text.rstrip("/")


def _webhook(text: str) -> str:
    # Its path is a secret, so errors repeat neither the URL nor the parser's message.
    legal = "must be a URL like https://hooks.slack.com/services/…"
    scheme, host, user = "", b"", None
    with suppress(ValueError):
        parts = urlsplit(text)
        _ = parts.port  # raises if the port is not a number
        # As a socket would encode it: an unusable host must be found before an alert is due.
        scheme, host = parts.scheme, (parts.hostname or "").encode("idna")
        user = parts.username
    if scheme not in ("http", "https") or not host:
        raise ValueError(f"{legal}: http or https, a host, and a numeric port if any")
    if user is not None:
        raise ValueError(f"{legal}: without user and password")
    return text


def _alert_urls(text: str) -> tuple[str, ...]:
    # Their parts are secrets, so errors repeat none of them. Apprise reads the rest of each.
    urls = tuple(text.split())
    if not all(re.match(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s/]", url) for url in urls):
        raise ValueError(
            "must be URLs of Apprise like mailto://user:password@example.com, separated by spaces"
        )
    return urls


def rate_limit(text: str) -> str:
    """The DSN of the Postgres that holds the rate limit, checked to be unambiguous.

    libpq would take part of a password with an unescaped @, / or ? for the host, and show it.

    Raises:
        ValueError: It is invalid. The message says what is valid and never repeats the DSN.
    """
    wrong = None
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises if the port is not a number
    except ValueError:
        wrong = "the port must be a number"
    else:
        if parts.scheme not in ("postgresql", "postgres"):
            wrong = "no other scheme is supported"
        elif parts.netloc.count("@") > 1 or "@" in f"{parts.path}{parts.query}{parts.fragment}":
            wrong = "write @ : / ? # % in user and password as %XX"
    # Without the parser's error as cause, as that may repeat part of the password.
    if wrong:
        raise ValueError(f"must be like postgresql://user:password@host:5432/name: {wrong}")
    return text


def _function(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_:-]{1,170}", text):
        raise ValueError("must be the name or the ARN of a Lambda function")
    return text


def _minutes(text: str) -> str:
    if text not in ("regular", "extended", "off"):
        raise ValueError("must be regular, extended or off")
    return text


def _weekly_or_daily(text: str) -> str:
    if text.lower() not in ("weekly", "daily"):
        raise ValueError("must be weekly or daily")
    return text.lower()


def _on_or_off(text: str) -> str:
    if text.lower() not in ("on", "off"):
        raise ValueError("must be on or off")
    return text.lower()


def _feed(text: str) -> str:
    if text not in FEEDS:
        raise ValueError(f"must be one of {', '.join(FEEDS)}")
    return text


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        # int() also accepts "1_000", "+5" and digits of other scripts.
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(text)

    return parse


def _date(text: str) -> date:
    first, last = market_calendar.FIRST, market_calendar.LAST
    legal = f"must be a date YYYY-MM-DD from {first} to {last}"
    # fromisoformat() also accepts "20240102" and "2024-W01-2".
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        raise ValueError(legal)
    try:
        day = date.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{legal}: {error}") from error
    if not first <= day <= last:
        raise ValueError(legal)
    return day


def lake_location(uri: str) -> tuple[Literal["path", "s3", "memory"], str]:
    """The kind of location that a lake's URI names, and the path or "bucket/prefix" in it.

    Raises:
        ValueError: the URI is invalid; says what is valid.
    """
    legal = "must be a local path, file:///path, s3://bucket/prefix or memory://"
    scheme, separator, rest = uri.partition("://")
    if not separator:
        if re.match("(s3|file|memory):", uri, re.IGNORECASE):
            raise ValueError(f"{legal}: after the scheme come a colon and two slashes")
        try:
            Path(uri).expanduser()
        except RuntimeError as error:
            raise ValueError(f"{legal}: there is no user of the name after ~") from error
        if "\0" in uri:
            raise ValueError(f"{legal}: without a null character")
        return "path", uri
    match scheme:
        case "file" if rest.startswith("/"):
            return "path", unquote(rest)
        case "file":
            raise ValueError(f"{legal}: a file URI has three slashes")
        case "memory" if rest in ("", "/"):
            return "memory", ""
        case "memory":
            raise ValueError(f"{legal}: a memory lake has no name")
        case "s3":
            bucket, *folders = rest.removesuffix("/").split("/")
            if "@" in bucket or "?" in rest:
                raise ValueError(f"{legal}: credentials and options are AWS_* variables")
            if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket):
                raise ValueError(
                    f"{legal}: a bucket name has 3 to 63 characters of a-z, 0-9, '.' and '-'"
                )
            if not all(_FOLDER.fullmatch(folder) for folder in folders):
                raise ValueError(f"{legal}: a prefix consists of folders of A-Z, a-z, 0-9 and ._=-")
            return "s3", "/".join((bucket, *folders))
        case _:
            raise ValueError(f"{legal}: no other scheme is supported")


def _closures(text: str) -> str:
    market_calendar.parse_declared(text)
    return text


def _lake_uri(text: str) -> str:
    lake_location(text)
    return text


def _symbol_list(text: str) -> str:
    if text == "@":
        raise ValueError("must name a file after the @, like @symbols.txt")
    if not text.startswith("@"):
        _parse_symbols(text)
    return text


def _parse_symbols(text: str) -> tuple[str, ...]:
    names = [name.upper() for name in re.split(r"[,\s]+", text) if name]
    if malformed := [name for name in names if not _SYMBOL.fullmatch(name)]:
        more = f" and {len(malformed) - 5} more" if len(malformed) > 5 else ""
        raise ValueError(
            "must hold symbols like AAPL or BRK.B; not valid: "
            f"{', '.join(map(repr, malformed[:5]))}{more}"
        )
    if not names:
        raise ValueError("must hold at least one symbol")
    return tuple(dict.fromkeys(names))


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "ALPACA_API_KEY",
        "alpaca_api_key",
        None,
        "",
        "with ALPACA_SECRET_KEY: collect from Alpaca. Without both: from the embedded exchange",
        _key,
        secret=True,
    ),
    Setting(
        "ALPACA_SECRET_KEY",
        "alpaca_secret_key",
        None,
        "",
        "the secret that belongs to ALPACA_API_KEY",
        _key,
        secret=True,
    ),
    Setting(
        "ALPACA_DATA_URL",
        "alpaca_data_url",
        None,
        "",
        "the host for market data, if not Alpaca's own (sandbox, proxy, tests)",
        _url,
    ),
    Setting(
        "ALPACA_TRADING_URL",
        "alpaca_trading_url",
        None,
        "",
        "the host for assets and corporate actions, if not Alpaca's own",
        _url,
    ),
    Setting(
        "ALPACA_FEED",
        "alpaca_feed",
        "sip",
        "",
        f"where the bars come from: {', '.join(FEEDS)}; sip is the consolidated tape",
        _feed,
    ),
    Setting(
        "ALPACA_REQUESTS_PER_MINUTE",
        "requests_per_minute",
        "200",
        "requests/minute",
        "what the account's plan allows; 10000 on the paid one",
        _whole(1, 1_000_000),
    ),
    Setting(
        "ALPACA_HISTORY_START",
        "history_start",
        "2016-01-04",
        "date",
        "the first session that Alpaca serves; its partitions never start before it",
        _date,
    ),
    Setting(
        "DATALAKE_URI",
        "lake_uri",
        None,
        "",
        "the lake: a local path or s3://bucket/prefix. "
        f"Not set: {LAKE_OF_ALPACA}, or {LAKE_OF_EXCHANGE} for the embedded exchange",
        _lake_uri,
    ),
    Setting(
        "DATALAKE_START_DATE",
        "start_date",
        "2011-01-03",
        "date",
        "the first partition (or the first session after it)",
        _date,
    ),
    Setting(
        market_calendar.DECLARED,
        "closures",
        None,
        "",
        "closures that this release's calendar lacks, comma-separated: 2025-01-09 for a closed "
        "day, 2025-01-09T13:00 for an early close (New York)",
        _closures,
    ),
    Setting(
        "DATALAKE_SYMBOLS",
        "symbols",
        None,
        "",
        "a smaller universe: comma-separated symbols, or @file with them. Not set: all",
        _symbol_list,
    ),
    Setting(
        "DATALAKE_MINUTES",
        "minutes",
        "off",
        "",
        "minute bars beside the daily ones: regular (of regular hours), extended (04:00 to 20:00 "
        "in New York) or off",
        _minutes,
    ),
    Setting(
        "DATALAKE_MINUTE_SYMBOLS",
        "minute_symbols",
        None,
        "",
        "the symbols of minute bars: comma-separated, or @file with them. Not set: those of "
        "DATALAKE_SYMBOLS",
        _symbol_list,
    ),
    Setting(
        "DATALAKE_MAX_WORKERS",
        "max_workers",
        "20",
        "threads",
        "how many requests the collector has in flight at once",
        _whole(1, 1000),
    ),
    Setting(
        "DATALAKE_SESSIONS_PER_RUN",
        "sessions_per_run",
        "252",
        "sessions",
        "the most sessions that a backfill puts in one run; four windows of 63, about a year",
        _whole(1, 10_000),
    ),
    Setting(
        "DATALAKE_UPLOAD_WORKERS",
        "upload_workers",
        "20",
        "threads",
        "how many symbol-years are written at once; a distant bucket needs more",
        _whole(1, 1000),
    ),
    Setting(
        "DATALAKE_RUNNING_YEAR",
        "running_year",
        "weekly",
        "",
        "when the files per symbol of the running year follow its sessions: weekly (with the last "
        "session of a week) or daily",
        _weekly_or_daily,
    ),
    Setting(
        "DATALAKE_AUTOMATION",
        "automation",
        "on",
        "",
        "on: Dagster's sensors start automatically and collect every day; off: they stay stopped",
        _on_or_off,
    ),
    Setting(
        "DATALAKE_COLLECT_AFTER_MINUTES",
        "collect_after_minutes",
        "60",
        "minutes",
        "how long after the close a session is collected, but never before 22:00 UTC (17:00 in New "
        "York in winter, 18:00 in summer, also on half days)",
        _whole(60, 1440),
    ),
    Setting(
        "DATALAKE_CATCH_UP_SESSIONS",
        "catch_up_sessions",
        "5",
        "sessions",
        "how many of the newest sessions the sensor collects if missing; older ones: a backfill",
        _whole(1, 250),
    ),
    Setting(
        "DATALAKE_SECOND_LOOK_SESSIONS",
        "second_look_sessions",
        "1",
        "sessions",
        "how many sessions later a session is collected again, for late corrections; 0: never",
        _whole(0, 20),
    ),
    Setting(
        "DATALAKE_MINUTE_SECOND_LOOK_SESSIONS",
        "minute_second_look_sessions",
        "0",
        "sessions",
        "how many sessions later the minute bars of a session are collected again; 0: never, as it "
        "takes all of their requests once more, about 300 for all symbols",
        _whole(0, 20),
    ),
    Setting(
        "DATALAKE_REPAIR_REQUESTS_PER_DAY",
        "repair_requests_per_day",
        "1000",
        "requests",
        "how many requests a day are spent on repairs of incomplete sessions; 0: none",
        _whole(0, 1_000_000),
    ),
    Setting(
        "DATALAKE_WITNESS_REQUESTS_PER_DAY",
        "witness_requests_per_day",
        "20",
        "requests",
        "how many requests a day are spent on comparing adjusted prices with the source's; 0: none",
        _whole(0, 1_000_000),
    ),
    Setting(
        "DATALAKE_FRESH_WITHIN_HOURS",
        "fresh_within_hours",
        "6",
        "hours",
        "how long after its close a session may be missing before the lake is stale",
        _whole(1, 240),
    ),
    Setting(
        "DATALAKE_ALERT_WEBHOOK",
        "alert_webhook",
        None,
        "",
        "a webhook for alerts of failed runs and a stale lake, as Slack has it",
        _webhook,
        secret=True,
    ),
    Setting(
        "DATALAKE_ALERT_URLS",
        "alert_urls",
        None,
        "",
        "other services for the same alerts (mail, Teams, PagerDuty, Telegram): URLs of Apprise, "
        "separated by spaces; needs the extra alerts",
        _alert_urls,
        secret=True,
    ),
    Setting(
        "DATALAKE_RATE_LIMIT",
        "rate_limit",
        None,
        "",
        "a Postgres that holds the rate limit for several machines: "
        "postgresql://user:password@host:5432/name. Not set: a file, for this machine only",
        rate_limit,
        secret=True,
    ),
    Setting(
        "DATALAKE_LAMBDA_FUNCTION",
        "lambda_function",
        None,
        "",
        "the Lambda function that lambda_session_job and lambda_minutes_job invoke. Not set: these "
        "jobs do not exist",
        _function,
    ),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """The validated settings. Created by `load`; the fields are described in `SETTINGS`.

    Secrets are not in the repr. For logs and metadata use `shown`, never
    `dataclasses.asdict`, which copies every field.
    """

    alpaca_api_key: str | None = field(repr=False)
    alpaca_secret_key: str | None = field(repr=False)
    alpaca_data_url: str | None
    alpaca_trading_url: str | None
    alpaca_feed: str
    requests_per_minute: int
    history_start: date
    lake_uri: str
    start_date: date
    closures: str | None
    symbols: str | None
    minutes: Literal["regular", "extended", "off"]
    minute_symbols: str | None
    max_workers: int
    sessions_per_run: int
    upload_workers: int
    running_year: Literal["weekly", "daily"]
    automation: Literal["on", "off"]
    collect_after_minutes: int
    catch_up_sessions: int
    second_look_sessions: int
    minute_second_look_sessions: int
    repair_requests_per_day: int
    witness_requests_per_day: int
    fresh_within_hours: int
    alert_webhook: str | None = field(repr=False)
    alert_urls: tuple[str, ...] | None = field(repr=False)
    rate_limit: str | None = field(repr=False)
    lambda_function: str | None

    @classmethod
    def load(
        cls,
        environ: Mapping[str, str] | None = None,
        *,
        today: date | None = None,
        misspelt: Literal["refuse", "warn"] = "refuse",
        spelt: Callable[[str], str] = str,
    ) -> Self:
        """Read and check the settings, without disk or network access.

        Args:
            environ: The variables; `os.environ` if None. An empty one counts as not set.
            today: Later dates are refused; the current day in UTC if None.
            misspelt: What to do if a variable's name is almost that of a setting. Loading the
                definitions warns, since they may be loaded beside other people's code; what runs
                refuses.
            spelt: How an error writes a variable's name, if the user wrote it in another way.

        Raises:
            SettingsError: with every problem, not just the first.
        """
        environ = os.environ if environ is None else environ
        today = datetime.now(UTC).date() if today is None else today
        given = _given(environ)
        problems = []
        if misspelt == "refuse":
            problems = _misspelt(given)
        else:
            for problem in _misspelt(given):
                warnings.warn(problem, UserWarning, stacklevel=2)
        values: dict[str, Any] = {}
        for setting in SETTINGS:
            text = given.get(setting.variable, setting.default)
            try:
                value = None if text is None else setting.parse(text)
                if isinstance(value, date) and value > today:
                    raise ValueError(f"must not be after today, {today}")
                values[setting.field] = value
            except ValueError as error:
                problems.append(_problem(setting, text, error, spelt))
        problems += _half_given(given, spelt)
        if problems:
            raise SettingsError(problems)
        if values["lake_uri"] is None:
            keys = values["alpaca_api_key"]
            values["lake_uri"] = LAKE_OF_EXCHANGE if keys is None else LAKE_OF_ALPACA
        return cls(**values)

    @property
    def source(self) -> Literal["alpaca", "embedded"]:
        """Where bars come from: Alpaca if the keys are given, else the embedded exchange."""
        return "embedded" if self.alpaca_api_key is None else "alpaca"

    @property
    def first_session(self) -> date:
        """The first partition: the first session on or after the start date that the source has."""
        source_start = self.history_start if self.source == "alpaca" else EXCHANGE_START
        start = max(self.start_date, source_start)
        while not market_calendar.is_session(start):
            start += timedelta(days=1)
        return start

    def read_symbols(self, *, minutes: bool = False) -> tuple[str, ...] | None:
        """The symbols that restrict the universe, from `read_symbols`; None: all.

        Args:
            minutes: Those of minute bars, if they have symbols of their own.
        """
        if minutes and self.minute_symbols is not None:
            return read_symbols(self.minute_symbols, "DATALAKE_MINUTE_SYMBOLS")
        return None if self.symbols is None else read_symbols(self.symbols)

    def shown(self) -> dict[str, str]:
        """Variable → value as text, for a log or metadata; for a secret only whether it is set."""
        values = {setting.variable: getattr(self, setting.field) for setting in SETTINGS}
        secret = {setting.variable for setting in SETTINGS if setting.secret}
        return {
            name: "not set" if value is None else "set" if name in secret else str(value)
            for name, value in values.items()
        }


def read_symbols(given: str, name: str = "DATALAKE_SYMBOLS") -> tuple[str, ...]:
    """The symbols of a list or of an `@file`: upper case, unique, in the given order.

    Args:
        given: Symbols separated by commas, or `@` and the name of a file, which is read now:
            symbols separated by commas or white space, `#` starts a comment.
        name: What they were given as: a variable or an option, for errors.

    Raises:
        SettingsError: the file can't be read, there is no symbol, or a symbol is invalid.
    """
    shown = f"{name}={given!r}"
    if not given.startswith("@"):
        try:
            return _parse_symbols(given)
        except ValueError as error:
            raise SettingsError([f"{shown} {error}"]) from error
    path = Path(given[1:]).expanduser()
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        return _parse_symbols("\n".join(line.partition("#")[0] for line in lines))
    except UnicodeDecodeError as error:
        raise SettingsError([f"{shown} names a file that is not text in UTF-8"]) from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SettingsError(
            [f"{shown} names a file that can't be read ({path.absolute()}: {reason})"]
        ) from error
    except ValueError as error:
        raise SettingsError([f"{shown} names a file that {error}"]) from error


def _problem(
    setting: Setting, text: str | None, error: ValueError, spelt: Callable[[str], str]
) -> str:
    name = spelt(setting.variable)
    if setting.secret:
        return f"{name} (not shown) {error}"
    # A password inside a URL is a secret, too.
    shown = re.sub(r"//.*@|[?].*", lambda found: f"{found[0].rstrip('@')[:2]}…", text or "")
    shown = shown if len(shown) <= 100 else shown[:99] + "…"
    return f"{name}={shown!r} {error}"


def refuse_misspelt(environ: Mapping[str, str] | None = None) -> None:
    """Check that no variable's name is almost that of a setting which is not set.

    Args:
        environ: The variables; `os.environ` if None.

    Raises:
        SettingsError: There is one; says which setting was probably meant.
    """
    if problems := _misspelt(_given(os.environ if environ is None else environ)):
        raise SettingsError(problems)


def _given(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: raw.strip() for name, raw in environ.items() if raw.strip()}


def _misspelt(given: Mapping[str, str]) -> list[str]:
    """Names that are almost a setting's: a setting that is silently ignored is worse than an error.

    Any other name belongs to another program, even if it begins with DATALAKE_ or ALPACA_, or
    resembles a setting that is set.
    """
    known = [setting.variable for setting in SETTINGS]
    unset = [name for name in known if name not in given]
    problems = []
    for name in sorted(given.keys() - set(known)):
        cutoff = next((_NEAR[start] for start in _NEAR if name.startswith(start)), None)
        if cutoff and (near := get_close_matches(name, unset, n=1, cutoff=cutoff)):
            problems.append(f"{name} is not a setting; did you mean {near[0]}?")
    return problems


def _half_given(given: Mapping[str, str], spelt: Callable[[str], str]) -> list[str]:
    pair = ("ALPACA_API_KEY", "ALPACA_SECRET_KEY")
    missing = [name for name in pair if name not in given]
    if len(missing) == 1:
        (other,) = set(pair) - set(missing)
        return [f"{spelt(missing[0])} is not set, but {spelt(other)} is; set both, or neither"]
    urls = ("ALPACA_DATA_URL", "ALPACA_TRADING_URL")
    return [
        f"{spelt(name)} is set, but {' and '.join(map(spelt, pair))} are not; set the keys, or "
        "unset it"
        for name in urls
        if missing and name in given
    ]
