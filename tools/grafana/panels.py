"""What the Grafana dashboard shows, as a table of rows of panels, and the dashboard made of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

WIDTH = 24  # columns of a dashboard
_HEIGHT = 8
_SOURCE = {"type": "prometheus", "uid": "${source}"}
_BY = '{instance=~"$instance"}'
_OF_TASK = '{instance=~"$instance", task=~"$task"}'


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph. `queries` are expressions with the legends of their series."""

    title: str
    unit: str  # Grafana's name for it
    queries: tuple[tuple[str, str], ...]
    stacked: bool = False
    explanation: str = ""


def _quantile(percent: int, histogram: str) -> tuple[str, str]:
    expression = (
        f"histogram_quantile({percent / 100:g}, sum by (task, le) "
        f"(rate({histogram}_bucket{_OF_TASK}[$__rate_interval])))"
    )
    return expression, f"{{{{task}}}} p{percent}"


def _mean(name: str, legend: str) -> tuple[str, str]:
    return (
        f"sum(rate({name}_sum{_OF_TASK}[$__rate_interval])) / "
        f"sum(rate({name}_count{_OF_TASK}[$__rate_interval]))",
        legend,
    )


def _rate(name: str, labels: str, by: str) -> str:
    return f"sum by ({by}) (rate({name}{labels}[$__rate_interval]))"


_PHASES = (
    ("queue", "edged_inference_queue_duration_seconds"),
    ("input", "edged_inference_compute_input_duration_seconds"),
    ("infer", "edged_inference_compute_infer_duration_seconds"),
    ("output", "edged_inference_compute_output_duration_seconds"),
)

ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "Requests",
        (
            Panel(
                "Answered",
                "reqps",
                ((_rate("edged_inference_request_success_total", _OF_TASK, "task"), "{{task}}"),),
            ),
            Panel(
                "Refused",
                "reqps",
                (
                    (
                        _rate("edged_inference_request_failure_total", _OF_TASK, "task, reason"),
                        "{{task}} {{reason}}",
                    ),
                    (_rate("edged_requests_rejected_total", _BY, "reason"), "unread {{reason}}"),
                ),
            ),
            Panel(
                "From receipt to reply",
                "s",
                tuple(_quantile(q, "edged_inference_request_duration_seconds") for q in (50, 99)),
            ),
            Panel(
                "Where the time goes, mean",
                "s",
                tuple(_mean(name, legend) for legend, name in _PHASES),
                stacked=True,
            ),
        ),
    ),
    (
        "Batches and blocks",
        (
            Panel(
                "Rows and tasks of a batch, mean",
                "short",
                tuple(
                    (
                        f"sum(rate(edged_batch_{what}_sum{_BY}[$__rate_interval])) / "
                        f"sum(rate(edged_batch_{what}_count{_BY}[$__rate_interval]))",
                        what,
                    )
                    for what in ("rows", "tasks")
                ),
            ),
            Panel(
                "Time in blocks",
                "percentunit",
                ((_rate("edged_block_run_duration_seconds_sum", _BY, "block"), "{{block}}"),),
                stacked=True,
                explanation="Seconds of each second that lanes spend in a block.",
            ),
            Panel(
                "Waiting and open",
                "short",
                (
                    (f"edged_current_requests{_BY}", "open"),
                    (f"edged_queued_requests{_BY}", "waiting"),
                    (f"edged_clients{_BY}", "clients"),
                ),
            ),
        ),
    ),
    (
        "Memory",
        (
            Panel(
                "The account",
                "bytes",
                (
                    (f"edged_memory_bytes{_BY}", "{{line}}"),
                    (f"edged_memory_budget_bytes{_BY}", "budget"),
                ),
            ),
            Panel(
                "Models that had to be loaded",
                "percentunit",
                (
                    (
                        f"{_rate('edged_model_misses_total', _OF_TASK, 'task')} / "
                        f"({_rate('edged_model_misses_total', _OF_TASK, 'task')} + "
                        f"{_rate('edged_model_hits_total', _OF_TASK, 'task')})",
                        "{{task}}",
                    ),
                ),
                explanation="The part of requests whose model was not on the device.",
            ),
            Panel(
                "Loads and evictions",
                "Bps",
                (
                    (f"rate(edged_loaded_bytes_total{_BY}[$__rate_interval])", "loaded"),
                    (f"rate(edged_evicted_bytes_total{_BY}[$__rate_interval])", "evicted"),
                ),
            ),
        ),
    ),
    (
        "The daemon",
        (
            Panel("Ready", "bool", ((f"edged_ready{_BY}", "{{instance}}"),)),
            Panel(
                "Restarts of the worker",
                "short",
                ((f"increase(edged_worker_restarts_total{_BY}[1h])", "in an hour"),),
            ),
            Panel("Models", "short", ((f"edged_models{_BY}", "{{state}}"),)),
        ),
    ),
)


def dashboard() -> dict[str, Any]:
    """The JSON model of the dashboard, as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS:
        place = {"h": 1, "w": WIDTH, "x": 0, "y": top}
        panels.append({"id": len(panels) + 1, "type": "row", "title": title, "gridPos": place})
        width = WIDTH // len(row)
        for column, panel in enumerate(row):
            place = {"h": _HEIGHT, "w": width, "x": column * width, "y": top + 1}
            panels.append({"id": len(panels) + 1, **_graph(panel), "gridPos": place})
        top += 1 + _HEIGHT
    return {
        "title": "edged",
        "uid": "edged",
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_SOURCES, _variable("instance"), _variable("task")]},
        "panels": panels,
    }


_SOURCES = {"name": "source", "type": "datasource", "query": "prometheus", "label": "source"}


def _variable(label: str) -> dict[str, Any]:
    metrics = {"instance": "edged_ready", "task": "edged_inference_count_total"}
    return {
        "name": label,
        "type": "query",
        "datasource": _SOURCE,
        "query": f"label_values({metrics[label]}, {label})",
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


def _graph(panel: Panel) -> dict[str, Any]:
    stacking = {"mode": "normal" if panel.stacked else "none"}
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": panel.explanation,
        "datasource": _SOURCE,
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "custom": {"stacking": stacking, "fillOpacity": 20 if panel.stacked else 0},
            },
            "overrides": [],
        },
        "targets": [
            {"refId": chr(ord("A") + n), "expr": expression, "legendFormat": legend}
            for n, (expression, legend) in enumerate(panel.queries)
        ],
    }
