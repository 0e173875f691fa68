"""Failures: why a step failed, in words that a person can act on.

Belongs here: the error that ends a step of ours, and reading the reason out of Dagster's events.
Does not belong here: what is wrong and what to do about it, which the error itself says.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

import dagster as dg

from datalake_assets.collection.errors import CollectionError
from datalake_assets.lake.files import WrongLakeError
from datalake_assets.settings import SettingsError
from datalake_assets.storage.store import BrokenFileError, StoreError

if TYPE_CHECKING:
    from dagster_shared.error import SerializableErrorInfo

P = ParamSpec("P")
T = TypeVar("T")

INTERRUPTED = "DagsterExecutionInterruptedError"
"""The class of the error that ends a step at Ctrl-C, or at Terminate in the UI."""

_WRAPPER = "DagsterExecutionStepExecutionError"


class Failed(dg.Failure):
    """The end of a step that says in plain words what was attempted, what came back, what to do."""


# Dagster shows an error as Python prints it, and Python prints the module before the name of every
# class but those of `builtins`: "dagster._core.definitions.events.Failure: …" hides the reason.
Failed.__module__ = "builtins"


def plainly(body: Callable[P, T]) -> Callable[P, T]:
    """The body of an asset, but what a person can mend fails it by its own words, as `Failed`.

    The cause is kept below them. Everything else fails it as it is: a defect needs its stack trace.

    Args:
        body: A function or a generator.
    """

    @wraps(body)
    def function(*args: P.args, **kwargs: P.kwargs) -> Any:
        with _told_plainly():
            return body(*args, **kwargs)

    @wraps(body)
    def generator(*args: P.args, **kwargs: P.kwargs) -> Any:
        with _told_plainly():
            yield from cast("Iterator[Any]", body(*args, **kwargs))

    made: Any = generator if inspect.isgeneratorfunction(body) else function
    # Dagster links an asset to its code by the file that the function's code says it is from.
    where = body.__code__
    made.__code__ = made.__code__.replace(
        co_filename=where.co_filename, co_firstlineno=where.co_firstlineno
    )
    return cast("Callable[P, T]", made)


@contextmanager
def _told_plainly() -> Iterator[None]:
    try:
        yield
    except _MENDABLE as error:
        words = "\n".join([str(error), *getattr(error, "__notes__", ())])
        raise Failed(words) from error


_MENDABLE = (
    BrokenFileError,
    CollectionError,
    SettingsError,
    StoreError,
    WrongLakeError,
)


def error_of(event: dg.DagsterEvent) -> SerializableErrorInfo | None:
    """The error that failed a step, without Dagster's own wrapper around it."""
    error = event.step_failure_data.error
    while error and error.cause and error.cls_name == _WRAPPER:
        error = error.cause
    return error


def reason(event: dg.DagsterEvent) -> str:
    """Why a step failed: the words of its error alone, without class and stack trace."""
    error = error_of(event)
    if not error:
        return "no reason was given"
    # As Python prints it: `package.module.Class: words`, or the class alone when it has no words.
    head, separator, words = error.message.strip().partition(": ")
    named = head.rpartition(".")[2] == error.cls_name
    return words if separator and named else error.message.strip()
