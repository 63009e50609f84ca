"""The dashboard and the alert rules: they are whole, can be read, and ask for what there is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from edged.observe.exposition import families
from edged.observe.metrics import BlockMetrics, LoadMetrics, MetricsSnapshot, TaskMetrics
from tools.grafana.__main__ import PLACE, text
from tools.grafana.panels import WIDTH

ALERTS = Path(PLACE).with_name("alerts.yml")
DASHBOARD: dict[str, Any] = json.loads(PLACE.read_text())
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
]
MEMORY = ("fixed", "staging", "workspace", "blocks", "unexplained", "total", "budget", "buffer",
          "front_pss", "worker_pss", "clients_shared")  # fmt: skip
EVERYTHING = MetricsSnapshot(
    rejected={"NOT_FOUND": 1},
    memory={f"{name}_bytes": 1 for name in MEMORY},
    tasks={"flowers": TaskMetrics(refused={"CANCELLED": 1})},
    loading=LoadMetrics({"ab": BlockMetrics()}, {"flowers": 1}, {"flowers": 1}),
)
# The labels of each series, by its name; Prometheus adds where it was scraped.
SERIES: dict[str, set[str]] = {"up": {"instance", "job"}}
for metric in families(EVERYTHING):
    for sample in metric.samples:
        SERIES.setdefault(sample.name, {"instance", "job"}).update(sample.labels)


def expressions() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"].replace("$__rate_interval", "1m")
    for rule in RULES:
        yield rule["expr"]


def selectors(node: Any) -> Iterator[promql_parser.VectorSelector]:
    """All series that an expression asks for."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("expr", "lhs", "rhs", "vector_selector", "args"):
        part = getattr(node, name, None)
        for each in part if isinstance(part, list) else [part]:
            if each is not None:
                yield from selectors(each)


@pytest.mark.parametrize("expression", list(expressions()))
def test_expressions_ask_for_metrics_and_labels_that_exist(expression: str) -> None:
    asked = list(selectors(promql_parser.parse(expression)))
    assert asked
    for selector in asked:
        assert selector.name in SERIES
        labels = {matcher.name for matcher in selector.matchers.matchers}
        assert labels <= SERIES[selector.name]


def test_an_expression_that_asks_for_what_is_not_there_is_found() -> None:
    (asked,) = selectors(promql_parser.parse("sum by (a) (rate(edged_nothing_total[5m]))"))
    assert asked.name not in SERIES


def test_the_choices_of_the_dashboard_are_labels_that_exist() -> None:
    asked = [each["query"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]
    assert len(asked) == 2
    for query in asked:
        metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", query).groups()
        assert label in SERIES[metric]


def test_the_dashboard_is_what_the_table_says() -> None:
    assert PLACE.read_text() == text(), "run python -m tools.grafana"


def test_panels_lie_beside_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= WIDTH
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken
        taken |= cells


def test_every_alert_says_what_it_means() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(set(names)) == len(names)
    for rule in RULES:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert set(rule["annotations"]) == {"summary", "description"}
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
