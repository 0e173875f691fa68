"""`datalake decide`: what to do where the source and the prices contradict each other.

Belongs here: listing open decisions, and recording a decision. Does not belong here:
how decisions are stored (`securities.decisions`), and their effect.
"""

from __future__ import annotations

import getpass
from datetime import UTC, date, datetime
from typing import Annotated

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer
from rich.table import Table

from datalake_assets.cli.arguments import existing_lake, open_lake, show_lake
from datalake_assets.cli.terminal import command, out, plain_errors, tell
from datalake_assets.lake.files import LakeFiles
from datalake_assets.lake.reader import as_day
from datalake_assets.securities.decisions import (
    ACCEPT,
    ADD,
    IGNORE,
    KINDS,
    WITHDRAW,
    Decision,
    read_decisions,
)
from datalake_assets.securities.decisions import decide as keep
from datalake_assets.securities.findings import read_findings
from datalake_assets.settings import Settings
from datalake_assets.storage import layout

decide = typer.Typer(
    help="Decide on actions that the prices contradict; add actions that the source lacks.",
    invoke_without_command=True,
    no_args_is_help=False,
    rich_markup_mode="rich",
)

Target = Annotated[
    str, typer.Argument(metavar="ACTION|SYMBOL", help="An action's identifier, or a symbol.")
]
Day = Annotated[
    str | None, typer.Argument(metavar="[YYYY-MM-DD]", help="The action's day, after a symbol.")
]
Why = Annotated[str, typer.Option("--why", help="The reason, stored with the decision.")]
Who = Annotated[str | None, typer.Option("--who", help="Who decides. Default: the login name.")]

_NEXT = "The sensor securities_follow applies it within minutes. To apply it now: {} securities"


@decide.callback()
def waiting(context: typer.Context) -> None:
    """Without a command: list open decisions and those already made."""
    if context.invoked_subcommand:
        return
    with plain_errors():
        lake = existing_lake(Settings.load())
        show_lake(lake)
        store = lake.store
        findings = read_findings(store)
        waits = findings.filter(findings["undecided"]).to_pylist()
        made = read_decisions(store).standing
    if not waits:
        tell(out, "No decision is open.")
    for row in waits:
        tell(out, f"{row['what']}\n  {row['decide']}")
    if made:
        table = Table("id", "decision", "about", "by", "when", "why", box=None, pad_edge=False)
        for each in made:
            table.add_row(
                each.id, each.what, _about(each), each.who, f"{each.when:%Y-%m-%d}", each.why
            )
        out.print(table)


@decide.command()
def accept(target: Target, day: Day = None, why: Why = "", who: Who = None) -> None:
    """Apply an action although the prices contradict it."""
    _on_action(ACCEPT, target, day, why, who)


@decide.command()
def ignore(target: Target, day: Day = None, why: Why = "", who: Who = None) -> None:
    """Don't apply an action, whatever the prices say; or accept a jump as a real price move."""
    _on_action(IGNORE, target, day, why, who)


@decide.command()
def add(
    kind: Annotated[str, typer.Argument(metavar="KIND", help=", ".join(KINDS))],
    symbol: Annotated[str, typer.Argument(help="The ticker on the day before.")],
    day: Annotated[str, typer.Argument(metavar="YYYY-MM-DD", help="Day of the first new price.")],
    ratio: Annotated[
        str | None, typer.Option(help="For a split: new shares to old shares, such as 4:1 or 1:10.")
    ] = None,
    amount: Annotated[
        float | None, typer.Option(help="For a dividend or spin-off: US dollars per share.")
    ] = None,
    to: Annotated[str | None, typer.Option(help="For a rename: the new ticker.")] = None,
    why: Why = "",
    who: Who = None,
) -> None:
    """Add a split, dividend, spin-off or rename that the source lacks."""
    with plain_errors():
        lake = open_lake(Settings.load())
        _require_a_lake(lake)
        new, old = _shares(ratio) if ratio else (None, None)
        decision = _decision(
            ADD,
            why,
            who,
            kind=kind,
            symbol=symbol.strip().upper(),
            day=_day(day),
            new=new,
            old=old,
            amount=amount,
            to=to.strip().upper() if to else None,
        )
        _keep(lake, decision)


@decide.command()
def withdraw(
    decision: Annotated[str, typer.Argument(metavar="DECISION", help="Such as decision-3.")],
    why: Why = "",
    who: Who = None,
) -> None:
    """Revoke a decision. It stays in the file, with who revoked it."""
    with plain_errors():
        _keep(open_lake(Settings.load()), _decision(WITHDRAW, why, who, subject=decision))


def _on_action(what: str, target: str, day: str | None, why: str, who: str | None) -> None:
    with plain_errors():
        lake = open_lake(Settings.load())
        if day is None:
            known = _actions(lake)
            if target not in set(known["action_id"].to_pylist()):
                raise typer.BadParameter(
                    f"no action {target!r} is open for decision. Run `datalake decide` to list "
                    "those that are, or give a symbol and a day"
                )
            _keep(lake, _decision(what, why, who, subject=target))
            return
        symbol, session = target.strip().upper(), _day(day)
        found = _of_day(lake, symbol, session)
        if found:
            _keep(lake, *(_decision(what, why, who, subject=one) for one in found))
        elif what == IGNORE and _jumped(lake, symbol, session):
            _keep(lake, _decision(what, why, who, symbol=symbol, day=session))
        else:
            raise typer.BadParameter(
                f"{symbol} has no action open for decision on {session}. Run `datalake decide` for "
                f"those that are, or `datalake actions {symbol}` for all"
            )


def _of_day(lake: LakeFiles, symbol: str, day: date) -> list[str]:
    """The actions of a symbol and day: those open for decision if any are, else all."""
    known = _actions(lake)
    known = known.filter(
        pc.and_(pc.equal(known["symbol"], symbol), pc.equal(known["day"], pa.scalar(day)))
    )
    asked = known.filter(known["undecided"])
    return sorted(set((asked if asked.num_rows else known)["action_id"].to_pylist()))


def _actions(lake: LakeFiles) -> pa.Table:
    """Identifier, symbol and day of each action with a factor, and of each open for decision."""
    findings = read_findings(lake.store)
    findings = findings.filter(findings["action_id"].is_valid())
    asked = pa.table(
        {
            "action_id": findings["action_id"],
            "symbol": findings["symbol"],
            "day": findings["session"],
            "undecided": findings["undecided"],
        }
    )
    _require_a_lake(lake)
    data = lake.store.get(layout.FACTORS_TABLE)
    columns = ["action_id", "symbol", "effective_date"]
    factors = pq.ParquetFile(pa.BufferReader(data)).read(columns, use_threads=False)
    factors = factors.rename_columns(["action_id", "symbol", "day"])
    no = pa.array([False] * factors.num_rows, pa.bool_())
    return pa.concat_tables(
        [asked, factors.append_column("undecided", no)], promote_options="permissive"
    )


def _jumped(lake: LakeFiles, symbol: str, day: date) -> bool:
    findings = read_findings(lake.store).to_pylist()
    return any(
        row["about"] == "jump" and row["symbol"] == symbol and row["session"] == day
        for row in findings
    )


def _require_a_lake(lake: LakeFiles) -> None:
    if not lake.store.exists(layout.FACTORS_TABLE):
        raise typer.BadParameter(
            f"no factors have been derived in {lake.store.uri}: correct DATALAKE_URI, or "
            "derive them with datalake securities"
        )


def _decision(what: str, why: str, who: str | None, **more: object) -> Decision:
    try:
        return Decision(
            what=what,
            who=who or getpass.getuser(),
            when=datetime.now(UTC).replace(microsecond=0),
            why=why,
            **more,  # type: ignore[arg-type]
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _keep(lake: LakeFiles, *decisions: Decision) -> None:
    try:
        made = keep(lake.store, *decisions).made[-len(decisions) :]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    for each in made:
        tell(out, f"{each.id}: {each.what} {_about(each)}, by {each.who}")
    tell(out, _NEXT.format(command()))


def _about(decision: Decision) -> str:
    if decision.subject:
        return decision.subject
    what = f"{decision.kind} " if decision.kind else ""
    if decision.new:
        more = f" {decision.new:g}:{decision.old:g}"
    elif decision.amount:
        more = f" ${decision.amount:g}"
    else:
        more = f" to {decision.to}" if decision.to else ""
    return f"{what}{decision.symbol} {decision.day}{more}"


def _shares(ratio: str) -> tuple[float, float]:
    new, colon, old = ratio.partition(":")
    try:
        if colon:
            return float(new), float(old)
    except ValueError:
        pass
    raise typer.BadParameter(f"--ratio takes new shares to old shares, such as 4:1, not {ratio!r}")


def _day(text: str) -> date:
    try:
        return as_day(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
