"""The command line: one verb per job; the only place that prints, and the only table from errors to exit codes."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.tree import Tree

from churn import logs
from churn.domain.access import Scope
from churn.domain.verdicts import DriftStatus, PromotionVerdict
from churn.errors import BadInput, ChurnError, ContractBroken, Mismatch, NotReady, Refused, Unavailable
from churn.settings import PREFIX, Settings, load_settings

if TYPE_CHECKING:
    from churn.core.lineage import Link
    from churn.domain.artifacts import Pointer
    from churn.following import Told
    from churn.jobs.score import Scored

EXIT_CODES: dict[type[ChurnError], int] = {
    BadInput: 2,
    ContractBroken: 3,
    NotReady: 4,
    Refused: 5,
    Unavailable: 8,
    Mismatch: 9,
}
DRIFT_CODES = {
    DriftStatus.OK: 0,
    DriftStatus.WARN: 0,
    DriftStatus.DRIFT: 6,
    DriftStatus.INSUFFICIENT: 7,
    DriftStatus.FAILED: 7,
}
EXIT_HELP = """Exit codes: 0 done · 1 a bug · 2 usage or settings · 3 raw tables break the contract ·
4 an earlier step is missing · 5 refused (verdict, guard) · 6 drift · 7 window too small or broken ·
8 a store or server does not answer · 9 things that must be equal are not"""

app = typer.Typer(
    name="churn",
    help="Predict which users will go silent, and keep that prediction trustworthy in production.",
    epilog=EXIT_HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
keys = typer.Typer(help="API keys of the service: make, list and revoke them.", no_args_is_help=True)
app.add_typer(keys, name="keys")
_HASH = re.compile(r"[0-9a-f]{64}")
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def main() -> None:
    """Run the command line; user mistakes end with a sentence and an exit code, never with a traceback."""
    try:
        app()
    except ChurnError as error:
        err.print(f"[bold red]error:[/] {escape(error.message)}", soft_wrap=True)
        if error.hint:
            err.print(f"  [dim]→[/] {escape(error.hint)}", soft_wrap=True)
        sys.exit(exit_code(error))
    except KeyboardInterrupt:
        sys.exit(130)


def exit_code(error: ChurnError) -> int:
    """The documented exit code of an error."""
    return next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), 1)


# -- the verbs, in the order of the river ----------------------------------------------------------------------------


@app.command()
def simulate(
    users: Annotated[int, typer.Option(help="Users of the shop", min=1)] = 5000,
    days: Annotated[int, typer.Option(help="Length of the log in days", min=30)] = 730,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal shops")] = 42,
    out_folder: Annotated[str, typer.Option("--out", help="Folder to write; default <home>/shop")] = "",
) -> None:
    """Make a shop with known truth: users, orders, sessions, and each user's true churn probability."""
    from churn import river

    settings = load_settings()
    with _working("simulating"):
        done = river.simulate(settings, users=users, days=days, seed=seed, folder=out_folder)
    made, folder = done.report, done.folder
    out.print(f"{made.orders:,} orders and {made.user_sessions:,} sessions of {made.users:,} users in {folder}")
    files = ("--users", "users"), ("--orders", "orders"), ("--sessions", "user_sessions")
    options = " ".join(f"{option} {folder}/{name}.parquet" for option, name in files)
    out.print(f"next: churn ingest {options}", soft_wrap=True)


@app.command()
def ingest(
    orders: Annotated[str, typer.Option(help="Orders, Parquet or CSV")] = "",
    users: Annotated[str, typer.Option(help="Users, Parquet or CSV; derived from the events when absent")] = "",
    sessions: Annotated[str, typer.Option(help="Sessions, Parquet or CSV")] = "",
    mapping: Annotated[
        list[str] | None,
        typer.Option("--map", help="ours=theirs, repeated or comma-separated; orders.user_id=… for one"),
    ] = None,
    tz: Annotated[str, typer.Option(help="Time zone of times that carry none")] = "UTC",
    date_format: Annotated[str, typer.Option(help="strptime format of times that are not ISO 8601")] = "",
) -> None:
    """Check raw tables against the contract and keep them as a dated, immutable snapshot."""
    from churn import river

    settings = load_settings()
    sources = {"orders": orders, "users": users, "user_sessions": sessions}
    try:
        with _working("checking the contract"):
            done = river.ingest_tables(settings, sources, mapping or [], tz=tz, date_format=date_format)
    except ContractBroken as error:
        _show_breaches(error.facts.get("rows", ()), err)
        raise
    _show_breaches(done.breach_rows, out)
    for line in done.summary:
        out.print(line, soft_wrap=True)


@app.command("build-features")
def build_features(
    cutoff: Annotated[str, typer.Option(help="One cutoff; default: the end of the log")] = "",
    start: Annotated[str, typer.Option("--from", help="First of several cutoffs")] = "",
    end: Annotated[
        str, typer.Option("--to", help="Last of several cutoffs, always built; default: the end of the log")
    ] = "",
    every: Annotated[str, typer.Option(help="Step: day, week or month")] = "month",
    replace_online: Annotated[
        bool,
        typer.Option(
            "--replace-online",
            help="Bring the newest cutoff online even if what is there is newer, or ten times larger",
        ),
    ] = False,
) -> None:
    """Build features and labels as of cutoffs with dbt, and bring the newest into the online store."""
    from churn import river

    settings = load_settings()
    wanted = river.wanted_cutoffs(cutoff, start, end, river.step(every))
    with _progress("building features") as on_progress:
        built = river.build(settings, wanted, on_progress, replace_online=replace_online)
    for moment, rows in built.report.rows.items():
        labelled = "labelled" if moment in built.report.labelled else "not matured"
        out.print(f"{moment:%Y-%m-%d %H:%M}Z  {rows:>9,} users  {labelled}")
    out.print(f"online features are as of {built.online_as_of:%Y-%m-%d %H:%M}Z")


@app.command()
def train(
    n_estimators: Annotated[int, typer.Option(help="Trees", min=1)] = 200,
    max_depth: Annotated[int, typer.Option(help="Depth of a tree", min=1)] = 10,
    min_samples_split: Annotated[int, typer.Option(help="Rows a node needs to be split", min=2)] = 5,
    min_samples_leaf: Annotated[int, typer.Option(help="Rows a leaf needs", min=1)] = 50,
    random_state: Annotated[int, typer.Option(help="Seed", min=0, max=2**32 - 1)] = 42,
    test_cutoffs: Annotated[int, typer.Option(help="How many of the newest matured cutoffs test", min=1)] = 1,
    calibration: Annotated[str, typer.Option(help="temperature, sigmoid or isotonic")] = "temperature",
    shape: Annotated[
        str, typer.Option(help="Of the forest: auto (chosen on past cutoffs), smooth, sharp or free")
    ] = "auto",
    sample_if_empty: Annotated[
        bool, typer.Option("--sample-if-empty", help="Where nothing was ingested, first take the bundled real sample")
    ] = False,
) -> None:
    """Train a calibrated RandomForest, record it in MLflow and register it as challenger."""
    from churn import river

    settings = load_settings()
    parameters = river.forest_parameters(
        n_estimators=n_estimators,
        max_depth=max_depth,
        min_samples_split=min_samples_split,
        min_samples_leaf=min_samples_leaf,
        random_state=random_state,
        calibration=calibration,
        shape=shape,
    )
    if sample_if_empty and not river.has_raw_tables(settings):
        from churn.demo import ONLINE_RETAIL, prepare

        out.print("nothing was ingested yet: taking the bundled Online Retail sample (data/online_retail)")
        with _progress("preparing the sample") as on_progress:
            prepare(settings, ONLINE_RETAIL, on_progress)
    with _working("training") as tell:
        trained = river.train_model(settings, parameters, test_cutoffs, tell)
    _show_comparison(trained.result.comparison)
    out.print(
        f"{trained.version.name} version {trained.version.version}, alias challenger: {len(trained.rows.train):,}"
        f" training and {len(trained.rows.test):,} test rows; calibrated on {trained.result.fitted.calibrated_on},"
        f" shape {trained.result.fitted.parameters.shape}",
        soft_wrap=True,
    )


@app.command()
def promote(
    version: Annotated[str, typer.Option(help="Version to judge; default: alias challenger")] = "",
    judge_only: Annotated[
        bool,
        typer.Option("--judge-only", help="Leave the alias to a person: a version that passed may be set in the UI"),
    ] = False,
    override: Annotated[
        str, typer.Option(help="Your reason to promote it whatever the verdict; only if the policy allows it")
    ] = "",
) -> None:
    """Judge the challenger against the champion under policy.yaml; move the alias only if it passes."""
    from churn import river

    act = river.only_judge if judge_only else river.promote_version
    with _working("comparing challenger and champion"):
        done = act(load_settings(), version, override)
    show_verdict(done.verdict)
    name = f"version {done.challenger.version}"
    if not done.admitted:
        raise Refused(f"{name} was not promoted", hint="The reasons are listed above.")
    passed = f"overridden: {done.override}" if done.override else "passed"
    out.print(
        f"{name} {passed}; {'it is champion' if done.moved else 'set its alias champion to serve it'}", markup=False
    )


@app.command()
def rollback(why: Annotated[str, typer.Option(help="Your reason, for the ledger")] = "") -> None:
    """Serve the version before again, at once and from the local cache; then move the alias, if there is a registry."""
    from churn import following

    def tell(left: Pointer, now: Pointer) -> None:
        out.print(f"version {now.version} is in service again on this host, version {left.version} is not")

    done = following.roll_back_champion(load_settings(), why, tell)
    for trouble in done.troubles:
        err.print(f"[yellow]warning:[/] {escape(trouble)}", soft_wrap=True)


@app.command()
def history(
    on: Annotated[str, typer.Option(help="A day (UTC): only which version served then")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="For programs")] = False,
) -> None:
    """Which version served when, and every verdict, alias move, refusal and rollback that this deployment saw."""
    from churn import following

    told = following.told_history(load_settings(), on)
    show = _history_as_json if as_json else _show_history
    show(told)
    if told.history.breaks:
        raise Mismatch(
            f"the ledger was changed after it was written: {'; '.join(told.history.breaks)}",
            hint="Compare it with a backup: up to there it is as it was written.",
        )


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address; default CHURN_HOST or 127.0.0.1")] = "",
    port: Annotated[str, typer.Option(help="Port, 0 for any free one; default CHURN_PORT or 8000")] = "",
    workers: Annotated[str, typer.Option(help="Processes that answer; default CHURN_WORKERS or 1")] = "",
) -> None:
    """Serve churn probabilities over REST, following the alias champion."""
    from churn import following

    options = (("host", host), ("port", port), ("workers", workers))
    given: dict[str, Any] = {name: value for name, value in options if value}
    settings = load_settings(**given)
    following.check_access(settings)
    is_open = settings.mode == "development"
    log = _log_of(settings)
    if is_open:
        log.warning("development mode: no API key is asked for; whoever reaches this machine may ask")

    def announce(addresses: Sequence[str]) -> None:
        shared, *own = addresses
        out.print(f"serving on {shared}{f' (docs: {shared}/docs)' if is_open else ''}")
        if own:
            out.print(f"each worker by itself, for its metrics: {', '.join(own)}", soft_wrap=True)

    following.run_service(settings, announce)


def _log_of(settings: Settings) -> logging.Logger:
    """The log of a process that runs until it is stopped: lines for programs, except at a developer's terminal."""
    logs.configure(plain=settings.mode == "development" and sys.stderr.isatty())
    return logging.getLogger("churn.serve")


@keys.command("add")
def add_key(
    name: Annotated[str, typer.Argument(help="Whose key it is: a program, a team; not a person")],
    scope: Annotated[list[Scope], typer.Option(help="What it opens; repeated for several")],
    rate: Annotated[float | None, typer.Option(help="Most requests a second; default: no bound")] = None,
) -> None:
    """Make a key for the service and show it, this once."""
    from churn import wiring

    key = wiring.key_file(load_settings()).add(name, frozenset(scope), rate)
    err.print("The key is not kept and cannot be shown again. A running service knows it within two seconds.")
    out.print(key, markup=False, soft_wrap=True)


@keys.command("list")
def list_keys() -> None:
    """Every key's name, scopes and rate, and whether it was revoked; the keys themselves are not known here."""
    from churn import wiring

    table = Table(Column("name", no_wrap=True), "scopes", "requests/s", "made (UTC)", "revoked (UTC)", box=None)
    for key in wiring.key_file(load_settings()).read():
        rate = "no bound" if key.rate is None else f"{key.rate:g}"
        revoked = _moment(key.revoked_at) if key.revoked_at else ""
        table.add_row(key.name, ", ".join(sorted(key.scopes)), rate, _moment(key.created_at), revoked)
    out.print(table)


@keys.command("revoke")
def revoke_key(name: Annotated[str, typer.Argument(help="Name of the key")]) -> None:
    """End a key. A running service refuses it within two seconds."""
    from churn import wiring

    wiring.key_file(load_settings()).revoke(name)
    out.print(f"the key {name} does not hold any more", markup=False)


@app.command(hidden=True)
def stage() -> None:
    """Follow the alias champion and stage verified versions for the service: its side process."""
    from churn.following import follow_champion

    settings = load_settings()
    log = _log_of(settings)
    try:
        follow_champion(settings)
    except ChurnError as error:  # among the service's lines, where only lines belong
        log.error("the side process cannot follow the champion: %s", error.message)
        raise typer.Exit(exit_code(error)) from error


@app.command(hidden=True)
def worker(sockets: Annotated[list[int], typer.Argument(help="Numbers of the sockets to accept from")]) -> None:
    """One of the service's several processes."""
    from churn import following

    settings = load_settings()
    _log_of(settings)
    following.run_worker(settings, sockets)


@app.command()
def score(
    out_file: Annotated[
        str, typer.Option("--out", help="Parquet to write; default <home>/scores/<cutoff>.parquet")
    ] = "",
    cutoff: Annotated[str, typer.Option(help="Cutoff; default: the newest built")] = "",
    explain: Annotated[bool, typer.Option("--explain", help="Add the reasons of every probability")] = False,
) -> None:
    """Score every eligible user with the champion."""
    from churn import river

    settings = load_settings()
    with _progress("scoring") as on_progress:
        scored, path = river.score_to_file(settings, cutoff, out_file, on_progress, explain=explain)
    skipped = ", ".join(f"{count:,} {name}" for name, count in scored.not_scored.items()) or "none"
    out.print(f"{len(scored.table):,} users scored, left out: {skipped}\n{path}", soft_wrap=True)
    show_contacts(scored)


@app.command()
def monitor(
    since: Annotated[str, typer.Option(help="Start of the window; default: 30 days before now")] = "",
    until: Annotated[str, typer.Option(help="End of the window; default: now")] = "",
) -> None:
    """Judge a window of the prediction log against the champion's reference; the exit code says drift."""
    from churn import river

    with _working("comparing the window with the reference"):
        done = river.monitor_window(load_settings(), since, until)
    out.print(f"[bold]{done.verdict.status}[/]: {done.verdict.rows:,} predictions")
    for reason in done.verdict.reasons:
        if reason.passed is not True:
            out.print(f"  {escape(reason.rule)}: {escape(reason.found)}", soft_wrap=True)
    out.print(str(done.html_path), soft_wrap=True)
    raise typer.Exit(DRIFT_CODES[done.verdict.status])


@app.command()
def compact() -> None:
    """Make one Parquet file of each past day (UTC) of the prediction log; safe beside a running service."""
    from churn import following

    days = following.compact_log(load_settings())
    for done in days:
        damaged = f", {done.damaged:,} damaged lines" if done.damaged else ""
        out.print(f"{done.day}: {done.predictions:,} predictions, {done.segments:,} segments taken in{damaged}")
    if not days:
        out.print("nothing to do: no finished segment of a past day")


@app.command()
def verify(cutoff: Annotated[str, typer.Option(help="Cutoff; default: the newest built")] = "") -> None:
    """Check for all users that the online store equals the offline store, bit by bit."""
    from churn import river

    with _working("comparing online with offline"):
        done = river.verify_online(load_settings(), cutoff)
    out.print(f"{done.users:,} users at {done.cutoff:%Y-%m-%d %H:%M}Z: online equals offline")


VERSION = typer.Argument(metavar="VERSION", help="A number, or an alias such as champion or @champion")


@app.command()
def rebuild(version: Annotated[str, VERSION] = "champion") -> None:
    """Make a version once more out of its lineage and say whether its golden rows come out bit-equal."""
    from churn import river

    try:
        with _working("rebuilding") as tell:
            done = river.rebuild_version(load_settings(), version, tell)
    except (NotReady, Mismatch) as error:
        _show_links(error.facts.get("links", ()), err)
        raise
    _show_links(done.links, out)
    said = f"version {done.version}, rebuilt, answers its {done.golden_rows} golden rows"
    if not done.golden_equal:
        ways_out = [link.way_out for link in done.links if link.way_out]
        raise Mismatch(
            f"{said} otherwise, by up to {done.largest_difference:.3g}",
            hint=ways_out[0] if ways_out else "Every link is as recorded: training is not repeatable on this machine.",
        )
    out.print(f"{said} bit for bit", soft_wrap=True)


@app.command()
def lineage(
    version: Annotated[str, VERSION] = "champion",
    as_json: Annotated[bool, typer.Option("--json", help="For machines: JSON with every digest in full")] = False,
) -> None:
    """Print what a version came from: raw snapshot, contract, cutoffs, features, training set, code, run, verdict."""
    from churn import river

    chain = river.lineage_of(load_settings(), version)
    if as_json:
        out.print_json(data=chain.as_dict())
        return
    tree = Tree(f"[bold]{escape(chain.name)}[/] version {escape(chain.version)}")
    for step in chain.steps:
        branch = tree.add(f"[bold]{step.name}[/]")
        for name, fact in step.facts.items():
            _add_fact(branch, name, fact)
    out.print(tree)


@app.command("settings")
def show_settings() -> None:
    """List every setting with its value here."""
    settings = load_settings()
    table = Table(Column("variable", no_wrap=True), Column("value", overflow="fold"), "meaning", box=None)
    for name, field in Settings.model_fields.items():
        value = _without_password(str(getattr(settings, name)))
        table.add_row(PREFIX + name.upper(), escape(value), escape(field.description or ""))
    out.print(table)


@app.command()
def demo(
    data: Annotated[str, typer.Option(help="simulated or online_retail")] = "simulated",
    users: Annotated[int, typer.Option(help="Users of the simulated shop", min=500)] = 5000,
) -> None:
    """Run the whole river once on a simulated shop or on real orders, and show what came out."""
    from churn.demo import run_demo

    run_demo(data, users, out)


def _without_password(value: str) -> str:
    """`password=…` of an address and `user:password@` of a URL, hidden."""
    return re.sub(r"(password=|://[^:/@]*:)[^,@]+", r"\1***", value)


# -- showing ---------------------------------------------------------------------------------------------------------


def show_verdict(verdict: PromotionVerdict) -> None:
    """The reasons of a verdict, one a line."""
    marks = {True: "[green]passed[/]", False: "[red]failed[/]", None: "[dim]told[/]"}
    for reason in verdict.reasons:
        out.print(f"{marks[reason.passed]}  {escape(reason.rule)}: {escape(reason.found)}", soft_wrap=True)


def show_contacts(scored: Scored) -> None:
    """Whom the model version says to contact, and what that is expected to bring."""
    money = scored.plan.economics
    budget = "" if money.budget is None else f", at most {money.budget:,g} is spent"
    out.print(
        f"to contact: {scored.contacts:,}, expected value {scored.expected_value:,.2f}"
        f" (probability from {scored.plan.threshold:.4f} on; a contact costs {money.cost:g} and brings {money.margin:g}"
        f" from those who would go silent{budget})",
        soft_wrap=True,
    )


def _show_links(links: Iterable[Link], console: Console) -> None:
    """One link of a version's chain a line, with what to do about it."""
    colours = {"ok": "green", "differs": "yellow", "missing": "red"}
    for link in links:
        colour = colours.get(link.state, "dim")
        console.print(f"[{colour}]{link.state:<12}[/] [bold]{link.name:<15}[/] {escape(link.found)}", soft_wrap=True)
        if link.way_out:
            console.print(f"{'':<12} [dim]→[/] {escape(link.way_out)}", soft_wrap=True)


def _add_fact(branch: Tree, name: str, fact: Any) -> None:
    """A fact as a leaf; several of one kind as leaves below it."""
    if isinstance(fact, dict):
        below = branch.add(escape(name))
        for key, value in fact.items():
            _add_fact(below, str(key), value)
        return
    several = isinstance(fact, list | tuple)
    text = ", ".join(map(str, fact)) or "none" if several else "not recorded" if fact is None else str(fact)
    branch.add(escape(f"{name}: {_readable(text)}"))


def _readable(text: str) -> str:
    """Digests and commits by their first characters, midnights as days."""
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{28,}", r"\1", text).replace("T00:00:00+00:00", "")


def _show_history(told: Told) -> None:
    table = Table("version", "from (UTC)", "until", "host", "process", box=None)
    for stint in told.served:
        until = _moment(stint.until) if stint.until else "no end recorded"
        table.add_row(stint.version, _moment(stint.since), until, stint.host, stint.service)
    if told.served:
        out.print(table)
    else:
        out.print(f"no version is known to have served{f' on {told.day}' if told.day else ''}")
    if told.day is None and told.history.entries:
        out.print()
        for entry in told.history.entries:
            out.print(f"{_moment(entry.at)}  {entry.kind:<15}  {escape(_facts(entry.facts))}", soft_wrap=True)
    if told.history.torn:
        err.print(f"[yellow]warning:[/] {told.history.torn} lines of the ledger were cut short by a crash")


def _history_as_json(told: Told) -> None:
    document = {"served": [asdict(stint) for stint in told.served], **asdict(told.history)}
    out.print(json.dumps(document, default=str, indent=1), soft_wrap=True, markup=False)


def _facts(facts: Mapping[str, Any]) -> str:
    """`name value` pairs; what is empty is left out, hashes are cut short, lists are written out."""
    told = {name: "; ".join(value) if isinstance(value, list) else str(value) for name, value in facts.items()}
    given = {name: text[:12] if _HASH.fullmatch(text) else text for name, text in told.items()}
    return ", ".join(f"{name} {text}" for name, text in given.items() if text not in ("", "None"))


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def _show_comparison(comparison: dict[str, dict[str, float]]) -> None:
    table = Table("model", "ROC-AUC", "PR-AUC", "Brier", "log loss", "ECE", "lift 10 %", box=None)
    for name, row in comparison.items():
        figures = [f"{row[key]:.4f}" for key in ("auc_score", "pr_auc", "brier", "log_loss", "ece", "lift_10")]
        table.add_row(name, *figures)
    out.print(table)


def _show_breaches(rows: Iterable[tuple[str, ...]], console: Console) -> None:
    """One breach a paragraph: a table would cut names where the terminal is narrow."""
    colours = {"fatal": "red", "quarantined": "yellow", "warning": "yellow"}
    for place, rule, severity, count, samples, meaning in rows:
        colour = colours.get(severity, "dim")
        console.print(
            f"[{colour}]{severity:<11}[/] [bold]{escape(place)}[/] {escape(rule)}: {count} rows", soft_wrap=True
        )
        console.print(f"            {escape(meaning)}{escape(f' ({samples})' if samples else '')}", soft_wrap=True)


@contextmanager
def _working(what: str) -> Iterator[Callable[[str], None]]:
    """A spinner with the step in hand; the caller may rename the step."""
    with err.status(f"{what} …") as status:
        yield lambda step: status.update(f"{step} …")


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, driven by (done, total)."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
    )
    with Progress(*columns, TimeElapsedColumn(), console=err, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
