"""Alerts through Apprise: what arrives at a real server, what is tried again, what stays secret.

Not here: the webhook, and what a failed run tells (`test_alerts`).
"""

import html
import json
import logging
import socket
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest

from datalake_assets.automation.alerts import Receivers, Webhook, receivers
from datalake_assets.automation.sending import AlertError
from datalake_assets.automation.services import SUBJECT, Service
from datalake_assets.definitions import build_definitions
from datalake_assets.settings import Settings, SettingsError
from datalake_assets_tests.automation.receiver import SECRET, Receiver, receiver
from datalake_assets_tests.automation.test_freshness import FROM_2024, Lake, asked, until, utc
from datalake_assets_tests.automation.world import World
from datalake_assets_tests.fakes import FakeClock

SECRETS = ("T0000", "aVerySecretPath", "pa55w0rd", "t0ken", "nobody@")


def url_of(told: Receiver, scheme: str = "json") -> str:
    """A URL of Apprise with a user, a password and a token in it."""
    return told.address.replace("http://", f"{scheme}://lake:pa55w0rd@") + "?+X-Token=t0ken"


def service(url: str, timeout: float = 5) -> Service:
    """A service that does not wait between attempts."""
    return Service(url, timeout=timeout, clock=FakeClock())


def bodies(told: Receiver) -> list[dict[str, Any]]:
    return [json.loads(body) for _, _, body in told.arrived]


# --- sending --------------------------------------------------------------------------------------


def test_the_first_of_several_lines_is_the_title() -> None:
    with receiver() as told:
        service(url_of(told)).tell("a job failed:\na < b & *ü*\nRun: datalake status")

    ((path, kind, _),) = told.arrived
    (sent,) = bodies(told)
    assert (path, kind) == (f"/services/{SECRET}", "application/json")
    assert sent["title"] == "a job failed"
    assert sent["message"] == "a < b & *ü*\nRun: datalake status"
    assert sent["type"] == "failure"


def test_a_text_of_one_line_has_our_name_as_its_title_and_may_be_good_news() -> None:
    with receiver() as told:
        service(url_of(told)).tell("the lake is fresh again", good=True)

    (sent,) = bodies(told)
    assert (sent["title"], sent["message"]) == (SUBJECT, "the lake is fresh again")
    assert sent["type"] == "success"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_can_pass_is_sent_again(status: int) -> None:
    with receiver(status, status) as told:
        service(url_of(told)).tell("twice refused")

    assert [sent["message"] for sent in bodies(told)] == ["twice refused"] * 3


def test_it_is_given_up_after_three_attempts_with_what_was_answered() -> None:
    with receiver(*[500] * 9) as told, pytest.raises(AlertError) as refused:
        service(url_of(told)).tell("refused")

    assert len(told.arrived) == 3
    assert str(refused.value) == (
        "an alert could not be sent to json:// (number 1) (attempt 3 of 3): "
        "it answered HTTP 500; check DATALAKE_ALERT_URLS"
    )


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_what_cannot_pass_is_sent_once(status: int) -> None:
    with (
        receiver(status) as told,
        pytest.raises(AlertError, match=rf"\(attempt 1 of 3\): it answered HTTP {status};"),
    ):
        service(url_of(told)).tell("refused")

    assert len(told.arrived) == 1


def test_a_service_that_is_too_slow_is_an_error_unless_its_url_gives_it_time() -> None:
    with receiver(seconds=0.5) as told:
        with pytest.raises(AlertError, match=r"\(attempt 3 of 3\): it was not reached"):
            service(url_of(told), timeout=0.1).tell("slow")
        service(url_of(told) + "&rto=5", timeout=0.1).tell("in time")


@contextmanager
def mailbox() -> Iterator[tuple[int, list[bytes]]]:
    """An SMTP server on loopback that takes every mail: its port, and the mails."""
    mails: list[bytes] = []

    def serve(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection, connection.makefile("rwb") as lines:

            def say(text: str) -> None:
                lines.write(text.encode() + b"\r\n")
                lines.flush()

            say("220 here")
            while word := lines.readline().strip().upper():
                if word == b"DATA":
                    say("354 go on")
                    mail = b""
                    while (line := lines.readline()) != b".\r\n":
                        mail += line
                    mails.append(mail)
                say("221 bye" if word == b"QUIT" else "250 fine")
                if word == b"QUIT":
                    return

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,), daemon=True)
        thread.start()
        yield server.getsockname()[1], mails
        thread.join(10)


def test_a_mail_has_the_reason_as_its_subject_and_shows_what_is_markup_elsewhere() -> None:
    with mailbox() as (port, mails):
        service(f"mailto://127.0.0.1:{port}?from=lake@example.org&to=ann@example.org").tell(
            "daily_ticks_job of 2024-07-03 failed:\na < b"
        )

    (mail,) = map(message_from_bytes, mails)
    assert mail["Subject"] == "daily_ticks_job of 2024-07-03 failed"
    assert "ann@example.org" in mail["To"]
    parts = [part.get_payload(decode=True) for part in mail.walk() if not part.is_multipart()]
    assert "a < b" in html.unescape(b"".join(part for part in parts if part).decode())


# --- what stays secret ----------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 404, 500])
def test_no_log_no_error_and_no_repr_repeats_a_part_of_the_url(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(1)
    error = ""
    with receiver(*[status] * 3) as told:
        asked = service(url_of(told))
        try:
            asked.tell("said in secret")
        except AlertError as refused:
            error = "".join(traceback.format_exception(refused))
    settings = Settings.load({"DATALAKE_ALERT_URLS": url_of(told)})

    assert bool(error) == (status != 200)
    shown = error + caplog.text + repr((asked, Receivers(asked), settings)) + str(settings.shown())
    assert [secret for secret in SECRETS if secret in shown] == []
    assert told.arrived != []


def test_others_log_again_after_an_alert(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with receiver() as told:
        service(url_of(told)).tell("said in secret")
    logging.getLogger("urllib3.connectionpool").debug("of somebody else")
    logging.getLogger("apprise").info("of somebody else, too")

    assert [record.message for record in caplog.records] == [
        "of somebody else",
        "of somebody else, too",
    ]


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("tgram://pa55w0rd", "tgram:// (number 2)"),  # no token that Telegram has
        ("nosuchservice://lake:pa55w0rd@host/T0000", "number 2"),
        ("pa55w0rd://host/T0000", "number 2"),
        ("pagerduty://t0ken", "pagerduty:// (number 2)"),  # without its second key
    ],
)
def test_a_url_that_apprise_cannot_use_is_refused_when_the_definitions_load(
    url: str, named: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(1)
    good = "json://localhost"
    with pytest.raises(SettingsError) as refused:
        build_definitions(Settings.load({"DATALAKE_ALERT_URLS": f"{good} {url}"}))

    shown = "".join(traceback.format_exception(refused.value)) + caplog.text
    assert f"has a URL that Apprise can't use: {named};" in shown
    assert [secret for secret in SECRETS if secret in shown] == []


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    monkeypatch.setattr("datalake_assets.automation.services.find_spec", lambda name: None)
    build_definitions(Settings.load({"DATALAKE_ALERT_WEBHOOK": "https://h.example/x"}))

    with pytest.raises(SettingsError, match=r"pip install 'us-equity-datalake\[alerts\]'"):
        build_definitions(Settings.load({"DATALAKE_ALERT_URLS": "json://lake:pa55w0rd@host"}))


@pytest.mark.parametrize(
    "url",
    [
        "mailto://lake:pa55w0rd@example.com?to=ann@example.com",
        "workflows://prod-15.westus.logic.azure.com:443/643e69f83c8944438/iFQsdf",  # Teams
        "pagerduty://integrationkey1234567890123456ab@apikey1234567890abcd",
        "tgram://123456789:abcdefghijklmnopqrstuvwxyz123456789/12315544",
        "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ",
    ],
)
def test_the_services_that_people_ask_for_are_known(url: str) -> None:
    service(url)


# --- several receivers ----------------------------------------------------------------------------


def test_each_receiver_of_the_settings_gets_each_alert() -> None:
    with receiver() as slack, receiver() as other, receiver() as third:
        found = receivers(
            Settings.load(
                {
                    "DATALAKE_ALERT_WEBHOOK": slack.address,
                    "DATALAKE_ALERT_URLS": f"{url_of(other)}  {url_of(third)}",
                }
            )
        )
        assert found
        found.tell("said to three")

    assert slack.texts == ["said to three"]
    assert [sent["message"] for sent in bodies(other) + bodies(third)] == ["said to three"] * 2


def test_one_that_refuses_does_not_keep_it_from_the_others_and_the_error_says_so() -> None:
    with receiver(404) as slack, receiver() as other:
        both = Receivers(Webhook(slack.address), service(url_of(other)))
        with pytest.raises(AlertError, match="HTTP 404; check DATALAKE_ALERT_WEBHOOK") as partly:
            both.tell("said to two")
        assert partly.value.delivered
        assert len(other.arrived) == 1

    with receiver(404) as slack, receiver(403) as other:
        both = Receivers(Webhook(slack.address), service(url_of(other)))
        with pytest.raises(AlertError, match="HTTP 404; .*; an alert .* HTTP 403") as nobody:
            both.tell("said to two")
        assert not nobody.value.delivered


def test_a_stale_lake_is_told_once_when_one_of_two_receivers_is_gone(tmp_path: Path) -> None:
    with receiver(*[404] * 9) as slack, receiver() as other:
        named = {"DATALAKE_ALERT_WEBHOOK": slack.address, "DATALAKE_ALERT_URLS": url_of(other)}
        world = World(tmp_path, utc("2024-06-05 02:00"), FROM_2024 | named)
        lake = Lake(world)
        lake.add(*until("2024-06-03"))
        asked(world, "2024-06-05 02:00")
        asked(world, "2024-06-05 02:01")
        assert len(other.arrived) == len(slack.arrived) == 1
        lake.add(date(2024, 6, 4))
        asked(world, "2024-06-05 02:02")

    late, again = bodies(other)
    assert (late["type"], again["type"]) == ("failure", "success")
    assert again["message"] == "2024-06-04 is there: the lake is fresh again"
