"""Names: what the definitions of one lake are called in a code location of Dagster.

Belongs here: the names of assets, jobs, sensors, resources and pools, so that two lakes can stand
in one code location. Does not belong here: the definitions themselves, which ask for their names.
"""

import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

import dagster as dg

P = ParamSpec("P")
T = TypeVar("T")

RESOURCES = ("collector", "source", "lake", "clock", "display")
"""The resources that our assets, checks, jobs and sensors ask for, by the names of arguments."""

READER = "reader"
"""The resource by which other assets read ours: the I/O manager (`io_manager`)."""

_OF_ASSETS = {"max_loss": ("corporate_actions", "datalake actions --sweep")}
"""Fields that are not the collector's: the asset whose config has them, and our command."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one lake's definitions. Without arguments they are our own, unchanged.

    Args:
        lake: The lake's name. Jobs, sensors, resources, groups and the pool begin with it and an
            underscore: `sip_daily_ticks_job`, `sip_lake`.
        key_prefix: What the keys of the assets begin with: `sip/daily_ticks`.
        group_name: The group of all assets; empty: our own groups, which begin with the name.
        ours: Whether the settings of the environment are this lake's, so that `datalake` in a
            terminal acts on it. Not in a component, which has settings of its own.

    Raises:
        ValueError: A name that Dagster would refuse.
    """

    lake: str = ""
    key_prefix: tuple[str, ...] = ()
    group_name: str = ""
    ours: bool = True

    def __post_init__(self) -> None:
        for name in filter(None, (self.lake, *self.key_prefix, self.group_name)):
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"{name!r} is not a name: use letters, digits and underscores, and a letter "
                    "first"
                )

    def of(self, name: str) -> str:
        """The name of a job, sensor, schedule, resource, pool or op."""
        return f"{self.lake}_{name}" if self.lake else name

    def purpose(self, purpose: str) -> str:
        """The purpose of a sensor's runs, the value of a tag."""
        return f"{purpose} of {self.lake}" if self.lake else purpose

    def key(self, asset: dg.AssetKey) -> dg.AssetKey:
        """The key of an asset."""
        return dg.AssetKey([*self.key_prefix, *asset.path])

    def check(self, check: dg.AssetCheckKey) -> dg.AssetCheckKey:
        """The key of a check."""
        return dg.AssetCheckKey(self.key(check.asset_key), check.name)

    def op(self, asset: dg.AssetKey) -> str:
        """The name of an asset's op, under which a run's config has its options."""
        return self.key(asset).to_python_identifier()

    def group(self, group: str) -> str:
        """The group of an asset."""
        return self.group_name or self.of(group)

    @property
    def is_known(self) -> bool:
        """Whether `datalake` in a terminal acts on this lake, and on its records."""
        return self.ours and not (self.lake or self.key_prefix)

    def description(self, text: str) -> str:
        """The description of an asset, with what its commands need for a lake of a project."""
        if self.is_known or "`datalake " not in text:
            return text
        return (
            f"{text.rstrip()}\n\n`datalake` in a terminal acts on this lake only with DATALAKE_URI "
            "set to where it is. To collect or publish, launch the asset instead.\n"
        )

    def command(
        self,
        ours: str,
        asset: dg.AssetKey,
        first: str = "",
        last: str = "",
        *,
        repair: bool = False,
    ) -> str:
        """The command of a message: ours, or that of `dg` for a lake that `datalake` doesn't know.

        Args:
            ours: The command in our own code location.
            asset: The asset that it makes.
            first: The partition, or the first of a range; empty: none.
            last: The last of a range; empty: there is one partition.
            repair: With the collector's `repair` on.
        """
        if self.is_known:
            return ours
        span = f" --partition-range {first}...{last}" if last else f" --partition {first}"
        told = f"dg launch --assets {self.key(asset).to_user_string()}{span if first else ''}"
        if not repair:
            return told
        config = {"resources": {self.of("collector"): {"config": {"repair": True}}}}
        return f"{told} --config-json '{json.dumps(config)}'"

    def setting(self, field: str, value: str) -> str:
        """How to set a field for one run: the end of a message.

        Args:
            field: The field of the collector or of an asset's config. Our command has an option of
                the same name.
            value: What to set it to.
        """
        where, command = f"the resource {self.of('collector')}", "datalake collect"
        if field in _OF_ASSETS:
            asset, command = _OF_ASSETS[field]
            where = f"the asset {self.key(dg.AssetKey(asset)).to_user_string()}"
        ours = f"add --{field.replace('_', '-')} {value} to `{command}`, or "
        return (
            f"{ours if self.is_known else ''}set {field} of {where} to {value} for one run, in the "
            "launchpad"
        )

    def bind(self, body: Callable[P, T]) -> Callable[P, T]:
        """The body of an asset, check, op or sensor, which gets the resources of this lake.

        Dagster finds a resource by the name of the argument. So the arguments that are resources
        are given this lake's names, and the body still gets them under its own.

        Args:
            body: A function or a generator.
        """
        ours = {self.of(name): name for name in RESOURCES}
        if not self.lake:
            return body

        def given(found: Mapping[str, Any]) -> dict[str, Any]:
            return {ours.get(name, name): value for name, value in found.items()}

        @wraps(body)
        def function(*args: Any, **kwargs: Any) -> Any:
            return cast("Callable[..., Any]", body)(*args, **given(kwargs))

        @wraps(body)
        def generator(*args: Any, **kwargs: Any) -> Any:
            yield from cast("Callable[..., Iterator[Any]]", body)(*args, **given(kwargs))

        made: Any = generator if inspect.isgeneratorfunction(body) else function
        signature = inspect.signature(body)
        made.__signature__ = signature.replace(
            parameters=[
                parameter.replace(name=self.of(parameter.name))
                if parameter.name in RESOURCES
                else parameter
                for parameter in signature.parameters.values()
            ]
        )
        made.__annotations__ = {
            self.of(name) if name in RESOURCES else name: kind
            for name, kind in body.__annotations__.items()
        }
        # Dagster links an asset to its code by the file name in the function's code object.
        where = body.__code__
        made.__code__ = made.__code__.replace(
            co_filename=where.co_filename, co_firstlineno=where.co_firstlineno
        )
        return cast("Callable[P, T]", made)


OURS = Names()
"""The names in our own code location."""
