"""The page of `bcrit surge`: the figure, and the numbers behind it."""

from html import escape
from pathlib import Path

from analysis.console import written
from analysis.figures.surge import surge_at_checkpoints
from analysis.notation import grid_count
from analysis.report.checks import write_page
from analysis.report.html import bullets, html_table, prose
from analysis.surge_measured import Surge, scales, sentence


def write_surge_page(surge: Surge, out_dir: Path) -> Path:
    """Write `out_dir`/index.html and data/; return the page. `surge_measured.write_surge` writes surge.json."""
    about = surge.about
    heading = f"run {about['run_id']} at {about['tokens']:,} tokens"
    rows = [
        (
            grid_count(point.batch_tokens),
            f"{point.batch_tokens / surge.prediction.seq_len:,.0f}",
            *(
                written(e, "{:.3g}")
                for e in (point.lr, point.lr_signs, step.lr, point.loss_drop, point.drop_signs, step.loss_drop)
            ),
            *(written(e, "{:.3g}") for e in (point.expected, point.agreed, point.bend_factor)),
        )
        for point, step in zip(surge.prediction.curve, surge.measured.steps, strict=True)
    ]
    head = (
        "B, tokens",
        "sequences",
        "η*, Theorem 2",
        "η*, signs as they are",
        "η*, line search",
        "loss drop, Theorem 2",
    )
    head += (
        "loss drop, signs as they are",
        "loss drop, line search",
        "E² by μ and σ",
        "signs agree",
        "bend × Theorem 2",
    )
    said = bullets(map(prose, (*surge.prediction.notes, *surge.measured.notes, *scales(surge))))
    numbers = said + html_table(head, rows, "One step, by batch")
    figures = (surge_at_checkpoints([surge]),)
    lead = escape(sentence(surge)).replace("B_noise", "B<sub>noise</sub>")
    return write_page(out_dir, "bcrit surge", heading, lead + ".", figures, numbers, "surge.json")
