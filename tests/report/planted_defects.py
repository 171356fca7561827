"""Defects of a report, each a change to a sound one in one way, with the rule that it breaks."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

T, B, N = 2**18, 2**13, 64
LAW = "batch_crit:time_transfer_surge"


@dataclass
class Files:
    """What a defect may change."""

    html: str
    laws: dict[str, Any]
    table: pd.DataFrame
    data: dict[str, pd.DataFrame]
    plots: Callable[[Any], None] = lambda sections: None  # changes the plots of the page

    def put(self, old: str, new: str) -> None:
        """Replace the first place of a text that must be on the page."""
        assert old in self.html, old
        self.html = self.html.replace(old, new, 1)

    def cut(self, pattern: str, new: str = "") -> None:
        """The same by pattern."""
        self.html, count = re.subn(pattern, new, self.html, count=1, flags=re.S)
        assert count == 1, pattern

    def cell(self, width: int = N, tokens: int = T, batch: int = B) -> dict[str, Any]:
        return next(
            c for c in self.laws["cells"] if (c["width"], c["tokens"], c["batch_tokens"]) == (width, tokens, batch)
        )

    def growth(self, quantity: str = LAW) -> dict[str, Any]:
        return next(law for law in self.laws["growth"] if law["quantity"] == quantity)


def advice_number(files: Files) -> None:
    quoted = re.search(r"<strong class=\"num\">B = (\d{3})<", files.html)
    assert quoted is not None
    files.put(quoted[0], quoted[0].replace(quoted[1], "199"))


def advice_interval(files: Files) -> None:
    files.cut(r'(<strong class="num">lr = [\d.]+</strong>) <span class="num">[^<]*</span>', r"\1")


def advice_missing(files: Files) -> None:
    files.cut(r"<li><strong>At T = 2<sup>20</sup>.*?(?=</ul>\s*<h3>)")


def critical_number(files: Files) -> None:
    row = re.search(r"<tr><td>2<sup>20</sup> \(1\.05M\)<td>(\S+) ", files.html)
    assert row is not None
    files.put(row[0], row[0].replace(row[1], "9.99k"))


def critical_bound_as_value(files: Files) -> None:
    bound = re.search(r"<td>≤ (\d\S*) †", files.html)
    assert bound is not None
    files.put(bound[0], f"<td>{bound[1]} [1.00, {bound[1]}] †")


def definition_unnamed(files: Files) -> None:
    files.put('<th scope="col">B<sub>crit</sub>, hyperbola', '<th scope="col">B<sub>crit</sub>')


def definition_unexplained(files: Files) -> None:
    files.cut(r"<li><strong>B<sub>crit</sub>, hyperbola</strong>.*?</li>")


def series_unnamed(files: Files) -> None:
    data = files.data["critical-batch"]
    files.data["critical-batch"] = data.assign(series=data["series"].replace("hyperbola", "b_crit"))


def law_changed(files: Files) -> None:
    files.cell(batch=2**9)["lr"]["value"] *= 1.02


def law_and_page_changed(files: Files) -> None:
    files.growth()["exponent"] |= {"value": 0.5, "low": 0.45, "high": 0.55}
    files.cut(r'(surge form ∝ T<sup>α</sup> with α = <span class="num">)[^<]*', r"\g<1>0.50 [0.45, 0.55]")


def growth_points(files: Files) -> None:
    points = files.growth()["n_points"]
    files.put(f"(from {points} points)", f"(from {points + 30} points)")


def verdict_changed(files: Files) -> None:
    files.put("Over all T: <strong>surge</strong>", "Over all T: <strong>√ saturation</strong>")


def number_without_interval(files: Files) -> None:
    files.put("<h3>How they grow with T</h3>", "<p>In short, B<sub>crit</sub> = 1500.</p><h3>How they grow with T</h3>")


def number_from_nowhere(files: Files) -> None:
    files.put("<h3>How they grow with T</h3>", "<p>Earlier: α = 0.61 [0.58, 0.64].</p><h3>How they grow with T</h3>")


def loss_changed(files: Files) -> None:
    row = files.table["loss"].idxmin()
    files.table.loc[row, "loss"] -= 0.05


def finished_without_loss(files: Files) -> None:
    row = files.table.index[files.table["status"] == "finished"][5]
    files.table.loc[row, "loss"] = np.nan


def finished_count(files: Files) -> None:
    count = re.search(r"<dd>(\d+) finished", files.html)
    assert count is not None
    files.put(count[0], f"<dd>{int(count[1]) + 4} finished")


def unfinished_drawn(files: Files) -> None:
    data = files.data["loss-against-lr"]
    data.loc[data.index[data["kind"] == "run"][0], "status"] = "running"


def edge_in_laws(files: Files) -> None:
    cell = files.cell()
    assert cell["state"] == "edge_high"
    lr = cell["argmin_lr"]
    cell["state"], cell["lr"] = (
        "interior",
        cell["lr"] | {"value": lr, "low": lr / 1.1, "high": lr * 1.1, "status": "ok"},
    )


def edge_in_table(files: Files) -> None:
    cell = re.search(r"<td>edge, high<td>≥ (\S+?)<td>", files.html)
    assert cell is not None
    files.put(cell[0], f"<td>edge, high<td>{cell[1]} [0.0009, 0.0022]<td>")


def edge_in_data(files: Files) -> None:
    data = files.data["lr-against-tokens"]
    row = data.index[data["lr_status"] == "lower_bound"][0]
    low = data.loc[row, "lr_low"]
    data.loc[row, ["lr", "lr_high", "lr_status"]] = [low, low, "ok"]


def edge_as_mark(files: Files) -> None:
    def change(sections: Any) -> None:
        for trace in sections["lr-against-tokens"].plot["data"]:
            if trace.get("marker", {}).get("symbol") == "triangle-up-open":
                trace["marker"]["symbol"] = "circle"

    files.plots = change


def best_batch_at_the_edge(files: Files) -> None:
    best = next(b for b in files.laws["best_batch"] if b["batch"]["status"] == "upper_bound")
    best["batch"] |= {"value": 212.0, "low": 190.0, "high": 230.0, "status": "ok"}


def best_batch_at_the_edge_advised(files: Files) -> None:
    row = re.search(r"<td>2<sup>18</sup><td>≤ (\S+)<td>", files.html)
    assert row is not None
    files.put(row[0], "<td>2<sup>18</sup><td>212 [190, 230]<td>")


def seeds_unstated(files: Files) -> None:
    files.put("<dt>Seeds</dt><dd>0, 1</dd>", "")


def seeds_wrong(files: Files) -> None:
    files.put("<dt>Seeds</dt><dd>0, 1</dd>", "<dt>Seeds</dt><dd>0, 1, 2</dd>")


def level_unstated(files: Files) -> None:
    files.put("Brackets are 95 % intervals", "Brackets are intervals")


def mixed(column: str, value: object) -> Callable[[Files], None]:
    def defect(files: Files) -> None:
        files.table = files.table.assign(**{column: files.table[column].mask(files.table["seed"] == 1, value)})

    return defect


def condition_misstated(files: Files) -> None:
    files.put("fp32; ZeRO 1", "bf16; ZeRO 1")


def schedule_untitled(files: Files) -> None:
    files.put("Tuned learning rate against batch (constant schedule)", "Tuned learning rate against batch")


def axis(figure: str, **changed: object) -> Callable[[Files], None]:
    def change(sections: Any) -> None:
        layout = sections[figure].plot["layout"]
        layout["xaxis"] |= {name: value for name, value in changed.items() if name != "title"}
        if "title" in changed:
            layout["meta"]["titles"]["x"] = changed["title"]

    def defect(files: Files) -> None:
        files.plots = change

    return defect


def caveat_left_out(files: Files) -> None:
    files.cut(r"<li>\d+ runs diverged, in.*?</li>")


def cell_left_out(files: Files) -> None:
    files.cut(r"<tr><td>128<td>2<sup>19</sup><td>2<sup>9</sup><td>interior[^\n]*\n")


def mark_moved(files: Files) -> None:
    def change(sections: Any) -> None:
        trace = next(t for t in sections["loss-against-lr"].plot["data"] if len(t.get("x", ())) > 3)
        trace["y"][1] -= 0.01

    files.plots = change


def drawn_loss_changed(files: Files) -> None:
    data = files.data["loss-against-lr"]
    data.loc[data["kind"].eq("run").idxmax(), "loss"] += 0.01


def data_missing(files: Files) -> None:
    del files.data["sensitivity"]


def unit_of_the_summary(files: Files) -> None:
    files.put("B is in tokens per step", "B is per step")


def tokens_trained(files: Files) -> None:
    files.cut(r"<dd>\S+ in finished runs", "<dd>9.99B in finished runs")


DEFECTS: list[tuple[Callable[[Files], None], str, str]] = [
    (advice_number, "numbers", "says 199 ["),
    (advice_interval, "intervals", "has no interval"),
    (advice_missing, "complete", "no advice at T=1048576"),
    (critical_number, "numbers", "says 9.99k"),
    (critical_bound_as_value, "intervals", "it is only bounded from above"),
    (definition_unnamed, "definitions", "names no definition"),
    (definition_unexplained, "definitions", "is used, but not defined"),
    (series_unnamed, "definitions", "b_crit at T=262144 is no definition"),
    (law_changed, "numbers", "lr.value is"),
    (law_and_page_changed, "numbers", "exponent.value is 0.5; the run table gives"),
    (growth_points, "numbers", "points; they are"),
    (verdict_changed, "numbers", "the verdict is surge"),
    (number_without_interval, "intervals", "stands without an interval"),
    (number_from_nowhere, "numbers", "0.61 [0.58, 0.64] is no estimate"),
    (loss_changed, "numbers", "the run table has"),
    (finished_without_loss, "finished", "finished without a finite loss: planted"),
    (finished_count, "finished", "the run table has"),
    (unfinished_drawn, "finished", "1 runs are drawn that have not ended"),
    (edge_in_laws, "edge", "the edge of those tried"),
    (edge_in_table, "edge", "it is only bounded from below"),
    (edge_in_data, "edge", "given as a value; it is lower_bound"),
    (edge_as_mark, "numbers", "is not among its numbers"),
    (best_batch_at_the_edge, "edge", "B* is given, but the lowest loss is at B=256, the edge"),
    (best_batch_at_the_edge_advised, "edge", "it is only bounded from above"),
    (seeds_unstated, "seeds", "not stated"),
    (seeds_wrong, "seeds", "says 0, 1, 2; the run table has 0, 1"),
    (level_unstated, "intervals", "95 %"),
    (mixed("code_version", "abc"), "conditions", "code_version mixes abc, planted, and the page does not say so"),
    (mixed("zero_stage", 2), "conditions", "zero_stage mixes 1, 2, and the page does not say so"),
    (mixed("data_fingerprint", "f00"), "conditions", "data_fingerprint mixes f00, planted"),
    (mixed("precision", "bf16"), "conditions", "precision mixes bf16, fp32"),
    (mixed("schedule", "cosine"), "conditions", "schedule mixes constant, cosine"),
    (condition_misstated, "conditions", "says bf16; ZeRO 1; ranks 1; the run table has fp32"),
    (schedule_untitled, "conditions", "does not say the schedule"),
    (axis("lr-crit", title=""), "axes", "an x axis has no title"),
    (axis("lr-against-batch", title="batch B"), "axes", "'batch B' has no unit"),
    (axis("loss-against-lr", type="linear"), "axes", "'learning rate η (at base width)' is not log"),
    (unit_of_the_summary, "axes", "B is in tokens"),
    (caveat_left_out, "complete", "a caveat is left out"),
    (cell_left_out, "complete", "left out: N=128, T=524288, B=512"),
    (mark_moved, "numbers", "is not among its numbers"),
    (drawn_loss_changed, "numbers", "the run table has"),
    (data_missing, "complete", "data/sensitivity.csv is missing"),
    (tokens_trained, "numbers", "says 9.99B"),
]
