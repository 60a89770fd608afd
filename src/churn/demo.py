"""The whole river once, on a simulated shop or on the bundled real orders, with a table of what came out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from churn import river
from churn.core.model import ForestParameters
from churn.domain.ports import Snapshot
from churn.domain.windows import cutoffs_between, parse_instant
from churn.errors import BadInput, Unavailable
from churn.jobs.build_features import Built
from churn.jobs.build_features import Progress as OnProgress
from churn.jobs.monitor import MonitorResult
from churn.jobs.promote import Promotion
from churn.jobs.train import Trained
from churn.settings import Settings, load_settings

SIMULATED, ONLINE_RETAIL = "simulated", "online_retail"
FIRST_CUTOFF = {SIMULATED: "2024-07-01", ONLINE_RETAIL: "2011-03-01"}
STEPS = 8
START_SECONDS = 60
ASKED = 1000


@dataclass(frozen=True)
class Outcome:
    """What each step of the river came to."""

    snapshot: Snapshot
    built: Built
    verified: int
    trained: Trained
    promotion: Promotion
    answer: dict[str, Any]
    scored: int
    monitored: MonitorResult
    seconds: float


def run_demo(data: str, users: int, console: Console) -> None:
    """Run every verb on `data` in a home of its own and print the result; raises BadInput for unknown data."""
    settings = demo_settings(data)
    with _steps(console) as step:
        outcome = _river(settings, data, users, step)
    console.print(summary(outcome))
    _say_next(console, settings, data, outcome)


def demo_settings(data: str) -> Settings:
    """Settings of the demo's own home: `.churn/demo-<data>`, or CHURN_HOME. Never a home that holds other data."""
    if data not in FIRST_CUTOFF:
        raise BadInput(f"--data {data} is not known", hint=f"Choose one of {', '.join(FIRST_CUTOFF)}.")
    home = Path(os.environ.get("CHURN_HOME") or f".churn/demo-{data}").absolute()
    config = home / "churn.toml"
    mark = f"# Written by `churn demo --data {data}`"
    if home.exists() and any(home.iterdir()) and not (config.is_file() and config.read_text().startswith(mark)):
        raise BadInput(f"{home} holds something else than this demo", hint="Set CHURN_HOME to another folder.")
    home.mkdir(parents=True, exist_ok=True)
    # The log ends in the past: 'now' is its end, so that its features are not stale. Its service needs no API key.
    own = f'mode = "development"\nclock = "snapshot"\nmlflow_tracking_uri = "sqlite:///{home / "mlflow.db"}"\n'
    config.write_text(f"{mark}\n{own}")
    # Nothing else from the environment: a demo must not reach the stores of a deployment that is configured there.
    return load_settings({}, home=home)


def prepare(settings: Settings, data: str, on_progress: OnProgress, users: int = 5000) -> Built:
    """Raw tables and features of the demo's data in `settings.home`."""
    ingest_data(settings, data, users)
    return river.build(settings, lambda snapshot: demo_cutoffs(snapshot, data, settings), on_progress)


def ingest_data(settings: Settings, data: str, users: int) -> Snapshot:
    """The demo's raw tables, under the contract."""
    if data == ONLINE_RETAIL:
        sources = {"orders": str(settings.project_dir / "data" / ONLINE_RETAIL / "orders.parquet")}
    else:
        shop = river.simulate(settings, users=users, days=730, seed=42, folder="")
        sources = {name: str(shop.folder / f"{name}.parquet") for name in ("users", "orders", "user_sessions")}
    return river.ingest_tables(settings, sources, [], tz="UTC", date_format="").snapshot


def demo_cutoffs(snapshot: Snapshot, data: str, settings: Settings) -> Sequence[datetime]:
    """Months up to the newest matured cutoff, and the end of the log, where users are scored."""
    newest_matured = snapshot.log_end - settings.horizon
    return [*cutoffs_between(parse_instant(FIRST_CUTOFF[data]), newest_matured, "month"), snapshot.log_end]


def _river(settings: Settings, data: str, users: int, step: Callable[[str], None]) -> Outcome:
    started = time.monotonic()
    step("raw tables and their contract")
    snapshot = ingest_data(settings, data, users)
    step("features and labels in dbt, feature store")
    built = river.build(settings, lambda each: demo_cutoffs(each, data, settings), lambda done, total: None)
    step("online store against offline store")
    verified = river.verify_online(settings, "").users
    step("training")
    trained = river.train_model(settings, ForestParameters(), 1, lambda text: None)
    step("promotion")
    promotion = river.promote_version(settings, "")
    step("batch scores")
    scored, _ = river.score_to_file(settings, "", "", lambda done, total: None)
    step("one user over HTTP")
    answer = _ask_service(settings, scored.table["user_id"].tolist())
    step("drift report")
    monitored = river.monitor_window(settings, "", "")
    seconds = time.monotonic() - started
    return Outcome(snapshot, built, verified, trained, promotion, answer, len(scored.table), monitored, seconds)


# -- the service, asked over HTTP ------------------------------------------------------------------------------------


def _ask_service(settings: Settings, user_ids: Sequence[int | str]) -> dict[str, Any]:
    """Start the service, score some users and then one, stop it; returns the answer for the one."""
    # Spread evenly over the ids, so that what the log holds is a fair sample of those who can be scored.
    ordered, count = sorted(user_ids), min(ASKED, len(user_ids))
    asked = [ordered[place * len(ordered) // count] for place in range(count)]
    with running_service(settings.home) as address:
        _post(f"{address}/v1/score", {"user_ids": asked})
        return _post(f"{address}/v1/score", {"user_ids": [user_ids[0]]})


@contextmanager
def running_service(home: Path) -> Iterator[str]:
    """The address of `churn serve` on a free port, ready to answer; stopped at the end. Raises Unavailable.

    Its settings are those of `home` alone, whatever the environment says.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CHURN_", "MLFLOW_"))}
    environment |= {"CHURN_HOME": str(home), "CHURN_DRAIN_SECONDS": "0"}  # nobody but us asks it
    command = [sys.executable, "-m", "churn", "serve", "--port", "0"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = next((word for word in process.stdout.readline().split() if word.startswith("http://")), "")
            _wait_until_ready(address, process)
            yield address
        finally:
            process.terminate()
            process.wait(START_SECONDS)


def _wait_until_ready(address: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while address and process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{address}/readyz", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise Unavailable("the service did not become ready", hint="Run `churn serve` by hand to see why.")


def _post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        answer: dict[str, Any] = json.load(response)
        return answer


# -- showing ---------------------------------------------------------------------------------------------------------


def summary(outcome: Outcome) -> Table:
    """What came out, a line each."""
    table = Table(title="The river, once", show_header=False, title_justify="left", min_width=88)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in _lines(outcome):
        table.add_row(name, text)
    return table


def _lines(outcome: Outcome) -> Iterator[tuple[str, str]]:
    tables = outcome.snapshot.manifest["tables"]
    yield "rows in", ", ".join(f"{facts['rows']:,} {name}" for name, facts in tables.items())
    cutoffs = outcome.built.report.cutoffs
    labelled = len(outcome.built.report.labelled)
    yield "cutoffs built", f"{len(cutoffs)}, {cutoffs[0]:%Y-%m-%d} to {cutoffs[-1]:%Y-%m-%d}, {labelled} with labels"
    yield "features", f"{outcome.trained.rows.train.X.shape[1]}; {outcome.verified:,} users online equal to offline"
    yield "test ROC-AUC", _aucs(outcome.trained)
    version, promotion = outcome.trained.version, outcome.promotion
    alias = "champion" if promotion.moved else "challenger (not promoted)"
    yield "model", f"{version.name} version {version.version}, alias {alias}"
    if not promotion.moved:
        yield "", "; ".join(f"{each.rule}: {each.found}" for each in promotion.verdict.reasons if each.passed is False)
    yield "batch scores", f"{outcome.scored:,} eligible users"
    yield "over HTTP", _answered(outcome.answer)
    yield "drift", f"{outcome.monitored.verdict.status} ({outcome.monitored.verdict.rows:,} predictions)"
    yield "drift report", _short(outcome.monitored.html_path)
    yield "time", f"{outcome.seconds:.0f} s"


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _aucs(trained: Trained) -> str:
    return "\n".join(f"{row['auc_score']:.3f}  {name}" for name, row in trained.result.comparison.items())


def _answered(answer: dict[str, Any]) -> str:
    first = answer["predictions"][0]
    told = f"user {first['user_id']}: {first['status']}"
    if first["churn_probability"] is None:
        return told
    return f"{told}, churn probability {first['churn_probability']:.3f} ({first['risk_segment']})"


def _say_next(console: Console, settings: Settings, data: str, outcome: Outcome) -> None:
    suffix = "" if data == SIMULATED else f" DATA={data}"
    console.print("\nnext:", style="bold")
    console.print(f"  make serve{suffix}   the service; then, for example:")
    user = json.dumps(outcome.answer["predictions"][0]["user_id"])
    body = f'{{"user_ids": [{user}]}}'
    console.print(
        f"    curl -s http://127.0.0.1:{settings.port}/v1/score -H 'content-type: application/json' -d '{body}'",
        soft_wrap=True,
        markup=False,
    )
    console.print(f"  make ui{suffix}   MLflow: runs, plots, versions, aliases")
    console.print(f"  make report{suffix}   where the reports lie")


@contextmanager
def _steps(console: Console) -> Iterator[Callable[[str], None]]:
    """A bar over the steps; calling it names the next one."""
    columns = (SpinnerColumn(), TextColumn("{task.completed}/{task.total}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.description}"), console=console) as bar:
        task = bar.add_task("", total=STEPS, completed=-1)

        def step(name: str) -> None:
            bar.update(task, description=name, advance=1)
            if not console.is_terminal:
                console.print(f"{name} …")

        yield step
        bar.update(task, completed=STEPS, description="done")
