"""`DatalakeComponent`: a lake with all of its assets in anybody's Dagster project, by a few lines.

    dg scaffold defs datalake_assets.DatalakeComponent sip

Belongs here: the attributes of the component, and which settings and names they mean. Does not
belong here: the definitions (`definitions`), and what settings mean and allow (`settings`).

Each setting is an attribute: the variable's name in small letters, without `DATALAKE_`. The
environment gives nothing but the secrets, under the names that the attributes say. So two lakes in
one project don't share a setting by accident.

https://docs.dagster.io/guides/build/components
"""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import dagster as dg
from click import ClickException
from dagster.components.component_scaffolding import scaffold_component
from dagster.components.scaffold.scaffold import Scaffolder, ScaffoldRequest
from pydantic import ConfigDict, Field, create_model

from datalake_assets import market_calendar
from datalake_assets.names import Names
from datalake_assets.settings import SETTINGS, Setting, Settings, SettingsError

_PREFIX = "datalake_"

_OF_THE_PROCESS = (market_calendar.DECLARED,)
"""Settings that all lakes share: there is one calendar."""

_REFERENCE = re.compile(r"\{\{\s*env(?:\.(\w+)|\(\s*['\"](\w+)['\"]\s*\))\s*\}\}")

_UNSET: Mapping[str, str] = {
    "ALPACA_API_KEY": "unset",
    "ALPACA_SECRET_KEY": "unset",
    "DATALAKE_RATE_LIMIT": "postgresql://unset",
}
"""What stands for a secret that is not set where the definitions load. A run needs it, and fails
with the variable's name; a code server that only shows the assets does not."""


def attribute(variable: str) -> str:
    """The attribute of a setting: the name of its variable in small letters, without DATALAKE_."""
    return variable.lower().removeprefix(_PREFIX)


def _secret(_context: dg.ResolutionContext, given: str) -> dg.EnvVar:
    """The variable that holds a secret; without a name if the text is not such a reference.

    The value is not read: Dagster would store it in clear text. Nor is anything raised here, where
    Dagster shows the line of the YAML with each error.
    """
    found = _REFERENCE.fullmatch(given.strip())
    return dg.EnvVar(found[1] or found[2] if found else "")


def _plain(context: dg.ResolutionContext, given: Any) -> Any:
    """The value of an attribute, all of whose variables are set.

    Dagster takes None for one that is not: a lake would be in the folder None/sip, and an attribute
    silently have its default.

    Raises:
        SettingsError: A variable is not set; says which.
    """
    unset = [name for name in _named(given) if not os.environ.get(name)]
    if unset:
        raise SettingsError(
            f"{name} is not set, and {given!r} needs it: set it where the code location loads, "
            "as in the project's .env"
            for name in unset
        )
    return context.resolve_value(given)


def _named(given: Any) -> list[str]:
    """The variables that a value of YAML refers to."""
    if isinstance(given, list):
        return [name for each in given for name in _named(each)]
    found = _REFERENCE.finditer(given) if isinstance(given, str) else ()
    return [each[1] or each[2] for each in found]


Value = str | int | bool | list[str] | None


def _of(kind: Any) -> dg.Resolver:
    """Resolves an attribute of this type by `_plain`."""
    return dg.Resolver(_plain, model_field_type=kind, inject_before_resolve=False)


_SETTINGS = [each for each in SETTINGS if each.variable not in _OF_THE_PROCESS]


def _field(setting: Setting) -> tuple[Any, Any]:
    default = "" if setting.default is None else f" Default: {setting.default}."
    unit = f" ({setting.unit})" if setting.unit else ""
    told = f"{setting.meaning[0].upper()}{setting.meaning[1:]}{unit}.{default}"
    if not setting.secret:
        return Annotated[Value, _of(Value)], Field(None, description=told)
    kind = dg.Resolver(_secret, model_field_type=str, inject_before_resolve=False)
    told += " Named by its variable: {{ env.NAME }}"
    return Annotated[dg.EnvVar | None, kind], Field(None, description=told)


class _Model(dg.Model):
    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)  # EnvVar is one


# Where a lake is must be said: two of them in one folder would be one.
_FIELDS: Any = {
    attribute(each.variable): _field(each) for each in _SETTINGS if each.field != "lake_uri"
}
_Attributes: Any = create_model("_Attributes", __base__=_Model, **_FIELDS)


class DatalakeScaffolder(Scaffolder[Any]):
    """Writes a `defs.yaml` that works as it is: a lake of the embedded exchange in a folder."""

    def scaffold(self, request: ScaffoldRequest[Any]) -> None:
        """Write the file, with the folder's name as the lake's.

        Raises:
            ClickException: A lake can't have this name. No folder is left.
        """
        folder = request.target_path
        name = re.sub(r"\W", "_", folder.stem)
        try:
            Names(name)
        except ValueError as error:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()  # dg has just made it
            raise ClickException(f"nothing was written: as the name of a lake, {error}") from error
        scaffold_component(request, {"name": name, "uri": f".datalake/{name}"})


@dg.scaffold_with(DatalakeScaffolder)
class DatalakeComponent(dg.Component, dg.Resolvable, _Attributes):  # type: ignore[misc]
    """A lake of bars of every US equity: assets, checks, jobs, sensors and resources.

    Without keys, bars come from the embedded exchange, a synthetic market. Sensors start
    automatically; `automation: "off"` keeps them stopped.
    """

    uri: Annotated[str | None, _of(str | None)] = Field(
        description="The lake: s3://bucket/prefix, or a folder, relative to the project's."
    )
    name: Annotated[str | None, _of(str | None)] = Field(
        None,
        description="The lake's name, with which the names of assets, jobs, sensors, resources, "
        "groups and the pool begin. Needed if there is another lake in the project.",
    )
    key_prefix: Annotated[str | list[str] | None, _of(str | list[str] | None)] = Field(
        None, description="What the keys of assets begin with. Default: the name."
    )
    group_name: Annotated[str | None, _of(str | None)] = Field(
        None, description="The group of all assets. Default: ticks and securities, with the name."
    )

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The definitions of the lake, without an executor for those of others.

        Raises:
            SettingsError: An attribute is invalid; says which, and what is valid.
        """
        # Imported here: listing the components of a project needs none of it.
        from datalake_assets.definitions import build_definitions

        settings, variables = self.settings()
        root = context.project_root
        settings = replace(
            settings,
            lake_uri=_placed(settings.lake_uri, root),
            symbols=_symbols_of(settings.symbols, root),
            minute_symbols=_symbols_of(settings.minute_symbols, root),
        )
        return build_definitions(settings, self.names(), variables)

    def names(self) -> Names:
        """What the definitions are called.

        Raises:
            SettingsError: A name that Dagster would refuse.
        """
        prefix = self.key_prefix if self.key_prefix is not None else self.name or []
        parts = prefix.split("/") if isinstance(prefix, str) else prefix
        try:
            return Names(
                self.name or "", tuple(filter(None, parts)), self.group_name or "", ours=False
            )
        except ValueError as error:
            raise SettingsError([f"name, key_prefix or group_name: {error}"]) from error

    def settings(self) -> tuple[Settings, dict[str, str]]:
        """The settings that the attributes mean, and the variables that hold the secrets.

        Raises:
            SettingsError: An attribute is invalid.
        """
        if not self.uri:
            raise SettingsError(["uri is not set: say where the lake is, like s3://bucket/prefix"])
        environ: dict[str, str] = {}
        literal: list[str] = []
        variables: dict[str, str] = {}
        for setting in _SETTINGS:
            value = getattr(self, attribute(setting.variable))
            if value is None:
                continue
            if setting.secret:
                name = variables[setting.variable] = value.env_var_name
                if not name:
                    literal.append(attribute(setting.variable))
                    continue
                value = os.environ.get(name) or _UNSET.get(setting.variable, "")
            environ[setting.variable] = _text(value)
        if literal:
            raise SettingsError(
                f"{name} (not shown) must name a variable, like '{{{{ env.{name.upper()} }}}}': "
                "Dagster stores attributes in clear text"
                for name in literal
            )
        return Settings.load(environ, spelt=attribute), variables


def _text(value: Any) -> str:
    """A value of YAML as its variable would have it."""
    if isinstance(value, bool):
        return "on" if value else "off"  # as YAML reads on and off
    if isinstance(value, list):
        return ",".join(map(str, value))
    return value.isoformat() if isinstance(value, date) else str(value)


def _symbols_of(given: str | None, root: Path) -> str | None:
    """Symbols, with their file's place if they are in one."""
    return f"@{_placed(given[1:], root)}" if given and given.startswith("@") else given


def _placed(uri: str, root: Path) -> str:
    """A relative folder within the project: the working folder of a run can be any."""
    return uri if "://" in uri else str(root / Path(uri).expanduser())
