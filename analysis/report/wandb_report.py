"""The report in Weights & Biases: the words and tables of the local page, live panels over the runs of the study, and
live panels over the analysis run (`analysis.report.analysis_run`)."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from wandb_workspaces import expr
from wandb_workspaces.reports.v2 import interface as wr

from analysis.check import with_status
from analysis.definitions import definitions_of
from analysis.figures import Figure
from analysis.report.analysis_run import KINDS, estimates, log_analysis
from analysis.report.markdown import markdown
from analysis.report.provenance import provenance
from analysis.report.steps import steps_provenance, steps_tables
from analysis.report.summary import summary
from analysis.report.tables import tables
from analysis.results import Analysis
from analysis.steps import is_steps_table
from configs.errors import ConfigError
from configs.rundir import write_json

MOST_BUDGETS = 6  # U-curves of as many of the largest T
NOTE = "wandb.json"  # beside the page: where it was published


def publish(page: Path, table: pd.DataFrame, analysis: Analysis, figures: Sequence[Figure], project: str) -> str:
    """Publish the report of `page` (a local index.html) in ENTITY/PROJECT; returns its address.

    The same report is updated if `page` was published there before; an analysis that is there is not logged again.
    Raises ConfigError without the project, a key or the network.
    """
    import wandb

    entity, name = entity_and_project(project)
    try:
        run = log_analysis(page.parent, analysis, figures, entity, name)
        steps = is_steps_table(table)
        table = table if steps else with_status(table)
        studies = sorted(map(str, table["study"].dropna().unique())) if "study" in table else [page.parent.parent.name]
        blocks = [
            wr.MarkdownBlock(text=markdown(summary(analysis))),
            wr.MarkdownBlock(text=markdown((steps_provenance if steps else provenance)(table, analysis))),
            *([] if steps else run_blocks(analysis, entity, name, studies)),
            *analysis_blocks(analysis, figures, entity, name, run),
            wr.MarkdownBlock(text=markdown((steps_tables if steps else tables)(table, analysis))),
        ]
        report = wr.Report(
            entity=entity,
            project=name,
            title=f"bcrit report: {', '.join(studies)}"[:128],
            description=f"Numbers, figures and run table: analysis run {run}.",
            blocks=blocks,
            width="fluid",
        )
        report.id = _published(page.parent, project)
        report.save()
    except (wandb.Error, OSError, ValueError) as error:
        raise ConfigError(f"wandb {project}: {str(error).splitlines()[0]}") from error
    write_json(page.parent / NOTE, {"project": project, "id": report.id, "url": report.url, "run": run})
    return report.url


def entity_and_project(text: str) -> tuple[str, str]:
    """Both parts of ENTITY/PROJECT. Raises ConfigError."""
    entity, _, project = text.partition("/")
    if not (entity and project) or "/" in project:
        raise ConfigError(f"--wandb {text}: write it as ENTITY/PROJECT")
    return entity, project


def _published(directory: Path, project: str) -> str:
    """Id of the report that was published in the project before, or nothing."""
    try:
        note = json.loads((directory / NOTE).read_text())
        return note["id"] if note["project"] == project else ""
    except (OSError, ValueError, KeyError):
        return ""


# Panels over the runs.


def run_blocks(analysis: Analysis, entity: str, project: str, studies: Sequence[str]) -> list[Any]:
    """Live panels over the runs of the studies, a run set for each width."""
    widths = sorted({cell.width for cell in analysis.cells})
    budgets = sorted({cell.tokens for cell in analysis.cells})[-MOST_BUDGETS:]
    runsets = [
        wr.Runset(
            entity=entity,
            project=project,
            name=f"N = {width}",
            filters=[expr.Metric("Group").isin(list(studies)), expr.Config("model.width") == width],
        )
        for width in widths
    ]
    curves = [
        _curve("Validation loss", ["valid/loss"], "loss, nats"),
        _curve("Training loss", ["train/loss"], "loss, nats"),
        _curve("Gradient noise scale, as logged", ["noise/noise_scale"], "tokens", log_y=True),
        _curve("Throughput", ["train/tokens_per_s"], "tokens per second"),
    ]
    u_curves = [
        wr.ScatterPlot(
            title=f"Loss at T = {tokens:,} against learning rate, by batch",
            x=wr.Config("lr"),
            y=wr.SummaryMetric(f"loss_{tokens}"),
            z=wr.Config("batch_tokens"),
            log_x=True,
            log_z=True,
            layout=_half(number),
        )
        for number, tokens in enumerate(budgets)
    ]
    return [
        wr.H2("The runs, live"),
        wr.P("Loss curves, noise scale and throughput against tokens; a point a run against its peak learning rate."),
        wr.PanelGrid(runsets=runsets, panels=[*_tiled(curves)]),
        wr.H3("U-curves"),
        wr.PanelGrid(runsets=runsets, panels=[*u_curves]),
    ]


def _curve(title: str, y: list[str], title_y: str, log_y: bool = False) -> wr.LinePlot:
    return wr.LinePlot(title=title, x="tokens", y=[*y], log_x=True, log_y=log_y, title_x="tokens", title_y=title_y)


def analysis_blocks(analysis: Analysis, figures: Sequence[Figure], entity: str, project: str, run: str) -> list[Any]:
    """Panels over the analysis run: what was fitted against T and B, and the figures with their captions."""
    runset = wr.Runset(entity=entity, project=project, name="analysis", filters=[expr.Metric("ID") == run])
    logged = [key for row in estimates(analysis) for key in row]
    keys = {kind: [key for key in dict.fromkeys(logged) if key.startswith(f"{kind}/")] for kind in KINDS}
    curves = [
        wr.LinePlot(title=title, x=x, y=[*keys[kind]], log_x=True, log_y=True, title_x=x, title_y=unit)
        for kind, (title, x, unit) in KINDS.items()
        if keys[kind]
    ]
    words = ", ".join(name.replace("_", " ") for name in definitions_of(analysis))
    said = f"Definitions of B_crit shown: {words}; _low and _high are 95 % intervals." if words else ""
    drawn = [
        [
            wr.MarkdownBlock(text=markdown(f"<h3>{number}. {figure.title}</h3>")),
            *([wr.PanelGrid(runsets=[runset], panels=[_media(figure)])] if figure.plot is not None else []),
            wr.MarkdownBlock(text=markdown(figure.caption if figure.plot is not None else figure.reason)),
        ]
        for number, figure in enumerate(figures, start=1)
    ]
    return [
        wr.H2("What was fitted, live"),
        wr.P(said or "No critical batch was identified."),
        *([wr.PanelGrid(runsets=[runset], panels=[*_tiled(curves)])] if curves else []),
        wr.H2("Figures"),
        *(block for blocks in drawn for block in blocks),
    ]


def _media(figure: Figure) -> wr.MediaBrowser:
    return wr.MediaBrowser(media_keys=[f"figures/{figure.id}"], num_columns=1, layout=wr.Layout(x=0, y=0, w=24, h=14))


def _tiled(panels: Sequence[Any]) -> Iterator[Any]:
    """Two panels a row."""
    for number, panel in enumerate(panels):
        panel.layout = _half(number)
        yield panel


def _half(number: int) -> wr.Layout:
    return wr.Layout(x=12 * (number % 2), y=8 * (number // 2), w=12, h=8)
