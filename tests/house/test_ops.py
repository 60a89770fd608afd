"""Dashboard and alerts name what the service exposes, the rules are tried by promtool, and each alert has its page."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from churn.domain.artifacts import Refusal, StagingStatus
from serving.app import ROUTES
from serving.metrics import Metrics
from tests import servers
from tests.models import artifact_files, version_of, with_card
from tests.serving.conftest import NOW, Site, eventually, make_site

REPOSITORY = Path(__file__).resolve().parents[2]
ALERTS = REPOSITORY / "ops" / "alerts.yaml"
TRIALS = Path(__file__).with_name("alerts.test.yaml")
DASHBOARD = json.loads((REPOSITORY / "ops" / "grafana" / "churn.json").read_text())
PAGE = (REPOSITORY / "docs" / "operations.md").read_text()

RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
]
FIRING = [rule for rule in RULES if "alert" in rule]
RECORDED = {rule["record"]: {"job"} for rule in RULES if "record" in rule}
# What Prometheus itself adds: the series of each target, and the labels of its scrape configuration.
ADDED = {"up": {"job", "instance"}}
SCRAPED = {"job", "instance"}
WORDS = {"and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right", "bool", "offset"}
# The multiwindow, multi-burn-rate alerts of the SRE workbook for 30 days: rate, long window, short window, severity.
BURN_RATES = {("14.4", "1h", "5m", "page"), ("6", "6h", "30m", "page"), ("1", "3d", "6h", "ticket")}
BUDGETS = {"ChurnErrorBudgetBurn": "0.001", "ChurnLatencyBudgetBurn": "0.01"}


# -- what the service exposes ------------------------------------------------------------------------------------


def every_series(site: Site) -> dict[str, set[str]]:
    """Name -> labels of all that a service exposes which answered, failed, and has a refused champion."""
    now, files = NOW, with_card(artifact_files(), newest_label=NOW)
    refused = Refusal("2", "no_verdict", "it carries no verdict")
    site.promote()
    with site.client() as client:
        (site.home / "cache" / "champion.json").write_text("{")
        assert eventually(lambda: "churn_model_reload_failures_total{" in client.get("/metrics").text)
        site.cache.stage(version_of(files), lambda _, folder: written(files, folder))
        site.cache.record_status(StagingStatus(now, now, failing=True, refused=refused))
        assert eventually(lambda: "churn_champion_refused{" in client.get("/metrics").text)
        assert eventually(lambda: "\nchurn_model_age_seconds " in client.get("/metrics").text)
        assert client.post("/v1/score", json={"user_ids": [1]}).status_code == 200
        families = list(text_string_to_metric_families(client.get("/metrics").text))
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


def written(files: dict[str, bytes], folder: Path) -> None:
    for name, data in files.items():
        (folder / name).write_bytes(data)


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    site = make_site(tmp_path_factory.mktemp("ops"))
    series = {name: labels | SCRAPED for name, labels in every_series(site).items()}
    return series | RECORDED | ADDED


# -- what dashboard and alerts ask -------------------------------------------------------------------------------


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in RULES)
    yield from (target["expr"] for panel in panels() for target in panel["targets"])
    yield from (note["expr"] for note in DASHBOARD["annotations"]["list"])
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert found is not None
            yield f"sum by ({found[2]}) ({found[1]})"


SELECTED = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*\{([^}]*)\}")
GROUPED = re.compile(r"\b(?:by|without|on|ignoring|group_left)\s*\(([^)]*)\)")


def names_in(expression: str) -> set[str]:
    """The metrics of an expression: what is left without texts, matchers, groupings, ranges, functions and words."""
    bare = re.sub(r"\[[^]]*\]", " ", GROUPED.sub(" ", re.sub(r"\{[^}]*\}", " ", re.sub(r'"[^"]*"', "", expression))))
    return set(re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*(?!\w|\s*\()", bare)) - WORDS


def labels_in(matchers: str) -> set[str]:
    return set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', '""', matchers)))


def test_every_metric_that_is_asked_for_is_exposed(exposed: dict[str, set[str]]) -> None:
    asked = {name for expression in expressions() for name in names_in(expression)}
    assert asked - exposed.keys() == set()
    assert len(asked) > 30, "the expressions were read"


def test_every_label_that_is_asked_for_is_one_of_its_metric(exposed: dict[str, set[str]]) -> None:
    wrong = {
        (name, label)
        for expression in expressions()
        for name, matchers in SELECTED.findall(expression)
        for label in labels_in(matchers) - exposed[name]
    }
    assert wrong == set()


def test_every_label_that_is_grouped_by_is_one_of_the_metrics_grouped(exposed: dict[str, set[str]]) -> None:
    for expression in expressions():
        known = {label for name in names_in(expression) for label in exposed[name]}
        grouped = {
            label.strip() for group in GROUPED.findall(expression) for label in group.split(",") if label.strip()
        }
        assert grouped <= known, expression


def test_what_the_service_exposes_of_its_own_is_shown_or_told(exposed: dict[str, set[str]]) -> None:
    """A metric that nobody looks at is dead weight."""
    asked = {name for expression in expressions() for name in names_in(expression)}
    families = {name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum") for name in asked}
    own = {name for name in exposed if name.startswith("churn_") and not name.endswith(("_bucket", "_count", "_sum"))}
    assert own - families - asked == set()


def test_the_objectives_are_those_of_scoring_requests() -> None:
    """Also of those that are refused before anybody looks which route they are for."""
    (matcher,) = set(re.findall(r'route=~"([^"]*)", route!~".\+/ready"', ALERTS.read_text()))
    assert matcher == "/v1/.+|/v2/models/.+|shed"
    metrics = Metrics()
    metrics.shed(0.001)
    assert 'churn_request_seconds_count{route="shed",status="503"} 1.0' in metrics.exposition().decode()
    counted = {r.path for r in ROUTES if re.fullmatch(matcher, r.path) and not r.path.endswith("/ready")}
    scoring = {route.path for route in ROUTES if route.method == "POST"} | {"/v1/users/{user_id}/score"}
    described = {"/v1/model", "/v2/models/{model}", "/v2/models/{model}/versions/{version}"}
    assert counted == scoring | described


def test_the_bound_of_slow_answers_is_a_bucket() -> None:
    bounds = set(re.findall(r'le="([^"]*)"', ALERTS.read_text()))
    metrics = Metrics()
    metrics.request("/v1/score", 200, 0.05)
    assert bounds == {"0.1"}
    assert 'churn_request_seconds_bucket{le="0.1",route="/v1/score",status="200"} 1.0' in metrics.exposition().decode()


# -- the alerts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["check", "rules", str(ALERTS)], ["test", "rules", TRIALS.name]], ids=" ".join)
def test_promtool_finds_no_fault(command: list[str]) -> None:
    program = [servers.promtool_program(), *command]
    done = subprocess.run(program, check=False, capture_output=True, text=True, cwd=TRIALS.parent)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tried_firing_and_silent() -> None:
    trials = [trial for test in yaml.safe_load(TRIALS.read_text())["tests"] for trial in test["alert_rule_test"]]
    fires = {trial["alertname"] for trial in trials if trial["exp_alerts"]}
    silent = {trial["alertname"] for trial in trials if not trial["exp_alerts"]}
    assert fires == {rule["alert"] for rule in FIRING}
    assert silent == fires


@pytest.mark.parametrize("alert", BUDGETS)
def test_budgets_burn_at_the_rates_and_windows_of_the_workbook(alert: str) -> None:
    rule_of = re.compile(r"(\S+)_rate(\w+) > ([\d.]+) \* ([\d.]+) and \1_rate(\w+) > \3 \* \4")
    found = set()
    for rule in FIRING:
        if rule["alert"] == alert:
            parts = rule_of.fullmatch(rule["expr"])
            assert parts is not None, rule["expr"]
            assert (parts[4], parts[3]) == (BUDGETS[alert], rule["labels"]["burn_rate"])
            found.add((parts[3], parts[2], parts[5], rule["labels"]["severity"]))
    assert found == BURN_RATES


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("record", rule.get("alert")))
def test_a_recorded_rate_is_over_the_window_of_its_name(rule: dict[str, Any]) -> None:
    if "record" in rule:
        assert set(re.findall(r"\[(\w+)\]", rule["expr"])) == {rule["record"].rpartition("_rate")[2]}


@pytest.mark.parametrize("rule", FIRING, ids=lambda rule: f"{rule['alert']}-{rule['labels'].get('burn_rate', '')}")
def test_an_alert_says_how_grave_it_is_what_is_wrong_and_where_to_read_on(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["runbook_url"] == f"docs/operations.md#{rule['alert'].lower()}"


def test_each_alert_has_its_section_and_each_section_its_alert() -> None:
    sections = re.findall(r"^### (Churn\w+)$", PAGE, re.MULTILINE)
    assert sections == list(dict.fromkeys(rule["alert"] for rule in FIRING)), "in the order of ops/alerts.yaml"


def test_each_section_says_what_it_means_and_what_to_do() -> None:
    for section in re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]:
        if section.startswith("Churn"):
            assert "**Do.**" in section, section.splitlines()[0]


def test_each_metric_is_explained(exposed: dict[str, set[str]]) -> None:
    own = {re.sub("_(bucket|count|sum)$", "", name) for name in exposed if name.startswith("churn_")}
    told = set(re.findall(r"^\| `(churn_\w+)`", PAGE, re.MULTILINE))
    assert told == own


# -- the dashboard -----------------------------------------------------------------------------------------------


def test_no_two_panels_cover_each_other() -> None:
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert all(x < 24 for x, _ in cells)
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(numbers) == len(set(numbers))


def test_every_panel_asks_the_datasource_that_is_chosen_and_has_a_title() -> None:
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    for panel in panels():
        assert panel["title"]
        assert [panel["datasource"], *(target["datasource"] for target in panel["targets"])] == [chosen] * (
            1 + len(panel["targets"])
        )


def test_prometheus_can_read_what_the_panels_ask(tmp_path: Path) -> None:
    asked = [target["expr"].replace("$__rate_interval", "5m") for panel in panels() for target in panel["targets"]]
    rules = [{"record": f"panel:asks{number}", "expr": expression} for number, expression in enumerate(asked)]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panel", "rules": rules}]}))
    program = [servers.promtool_program(), "check", "rules", str(file)]
    done = subprocess.run(program, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
