"""Failures: errors that say why a step failed and what to do.

Belongs here: the error that ends a step, and reading the reason from Dagster's events.
Does not belong here: the messages themselves.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

import dagster as dg
from dagster._core import errors as dagster_errors
from dagster._core.events import JobFailureData

from datalake_assets.collection.errors import CollectionError, TruncatedError
from datalake_assets.lake.files import WrongLakeError
from datalake_assets.names import Names
from datalake_assets.settings import SettingsError
from datalake_assets.storage.store import BrokenFileError, StoreError

if TYPE_CHECKING:
    from dagster_shared.error import SerializableErrorInfo

P = ParamSpec("P")
T = TypeVar("T")

INTERRUPTED = "DagsterExecutionInterruptedError"
"""The class of the error that ends a step on Ctrl-C, or on Terminate in the UI."""


class Failed(dg.Failure):
    """The failure of a step; it says what was attempted, what came back and what to do."""


# Dagster shows an error as Python prints it, and Python puts the module before the name of every
# class outside `builtins`: "dagster._core.definitions.events.Failure: …" would hide the reason.
Failed.__module__ = "builtins"


def plain_failures(body: Callable[P, T], names: Names | None = None) -> Callable[P, T]:
    """Wrap the body of an asset or check: raise errors that a person can fix as `Failed`.

    The message is the error's own, and the error is kept as the cause. Any other exception is
    raised unchanged, because a defect needs its stack trace.

    Args:
        body: A function or a generator.
        names: What the lake's definitions are called. With them, the message also says how to do
            what the error advises for this lake.
    """

    @wraps(body)
    def function(*args: P.args, **kwargs: P.kwargs) -> Any:
        with _fixable_errors(names):
            return body(*args, **kwargs)

    @wraps(body)
    def generator(*args: P.args, **kwargs: P.kwargs) -> Any:
        with _fixable_errors(names):
            yield from cast("Iterator[Any]", body(*args, **kwargs))

    made: Any = generator if inspect.isgeneratorfunction(body) else function
    # Dagster links an asset to its code by the file name in the function's code object.
    where = body.__code__
    made.__code__ = made.__code__.replace(
        co_filename=where.co_filename, co_firstlineno=where.co_firstlineno
    )
    return cast("Callable[P, T]", made)


@contextmanager
def _fixable_errors(names: Names | None) -> Iterator[None]:
    try:
        yield
    except _FIXABLE as error:
        words = [str(error), *getattr(error, "__notes__", ())]
        if names and isinstance(error, TruncatedError):
            words.append(f"To raise it, {names.setting(error.setting, '1')}")
        raise Failed("\n".join(words)) from error


_FIXABLE = (
    BrokenFileError,
    CollectionError,
    SettingsError,
    StoreError,
    WrongLakeError,
)


def error_of(event: dg.DagsterEvent) -> SerializableErrorInfo | None:
    """The error that failed a step, without Dagster's wrapper around it."""
    return _unwrapped(event.step_failure_data.error)


def _unwrapped(error: SerializableErrorInfo | None) -> SerializableErrorInfo | None:
    # No deeper: the cause of our own error does not say what was attempted and what to do.
    while error and error.cause and _is_wrapper(error):
        error = error.cause
    return error


def _is_wrapper(error: SerializableErrorInfo) -> bool:
    """Whether Dagster raised it around an error of code that it called."""
    kind = getattr(dagster_errors, error.cls_name or "", None)
    return isinstance(kind, type) and issubclass(kind, dg.DagsterUserCodeExecutionError)


def reason(event: dg.DagsterEvent) -> str:
    """Why a step failed: the message of its error, without class and stack trace."""
    error = error_of(event)
    return _words(error) if error else "no reason given"


def run_reason(event: dg.DagsterEvent) -> str:
    """Why a run failed of which no step failed.

    A resource could not be made: then Dagster's own message only says that there was an exception,
    and the cause has the reason. Or its process was killed, or never started: Dagster says so.
    """
    # What reports the failure of another process gives a message alone.
    data = event.event_specific_data
    error = _unwrapped(data.error) if isinstance(data, JobFailureData) else None
    return _words(error) if error else event.message or "no reason given"


def _words(error: SerializableErrorInfo) -> str:
    # As Python prints it: `package.module.Class: message`, or the class alone without a message.
    head, separator, words = error.message.strip().partition(": ")
    named = head.rpartition(".")[2] == error.cls_name
    return words if separator and named else error.message.strip()
