"""What the fitted laws say at a budget and width that were not trained, how far beyond the grid that is, and whether
it is too far.

REACH of a law: as many octaves beyond the grid as the grid itself spans in that direction. Laws fitted over T = 2^16 to
2^20 are followed up to 2^24 and down to 2^12; with one width, no other width is predicted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.best_batch import best_batches
from analysis.check import check_table
from analysis.critical_batch import DEFINITION_OF_FORM, without_form
from analysis.growth import power_laws
from analysis.laws import Points, compare_forms, fit_law, outside, points_of, verdict_of
from analysis.optimum import find_optima
from analysis.published import LAWS, PublishedLaw, Setting
from analysis.results import Estimate
from configs.errors import ConfigError

SLACK = 1e-9  # octaves, against rounding


@dataclass(frozen=True)
class Prediction:
    """Everything at one T and N. `laws`: by quantity, named as in laws.json; `published`: reference lines."""

    tokens: float
    width: float
    octaves_tokens: float  # beyond the tuned budgets; 0 inside
    octaves_width: float
    laws: dict[str, Estimate]
    published: tuple[tuple[PublishedLaw, float | None], ...]


@dataclass(frozen=True)
class ParamsOfWidth:
    """Parameters of a model family of one depth: a N^2 in matrices of the blocks, b N in embeddings, head and norms."""

    a: float
    b: float

    def width(self, n_params: float) -> float:
        """N of a model with so many parameters, embeddings included."""
        return float((np.sqrt(self.b**2 + 4 * self.a * n_params) - self.b) / (2 * self.a))

    def without_embeddings(self, width: float) -> float:
        """What published laws call N."""
        return float(self.a * width**2)


def predict(
    table: pd.DataFrame,
    *,
    tokens: Sequence[float],
    width: float | None = None,
    n_params: float | None = None,
    batch: float | None = None,
    force: bool = False,
) -> tuple[Prediction, ...]:
    """eta*, B* and B_crit at every one of `tokens` and a model size, with 95 % intervals of the laws.

    The size is `width` or `n_params` (with embeddings); with one width in the table neither is needed. With `batch`
    (tokens) also eta* at that batch, by every form of eta*(B) that the data do not rule out. Intervals assume that the
    power laws go on: they do not cover a law that bends. Raises ConfigError beyond the reach of the laws (unless
    `force`) and where the table allows no law.
    """
    table = check_table(table).table
    optima = find_optima(table)
    points = points_of(optima)
    if np.unique(points.tokens).size < 2:
        raise ConfigError("predict: laws in T need tuned learning rates at two budgets or more; the table has fewer")
    family = params_of_width(table)
    width = _width(points, family, width, n_params)
    best = best_batches(optima.cells, optima.noise)
    lines = power_laws(points, optima.cells, without_form(optima.cells, optima.noise, table), best, optima.noise)
    last = float(2.0 ** points.tokens.max())
    anchor = (last, float(lines["lr_best"].at(last, width).value or 0.0)) if "lr_best" in lines else None
    predictions = []
    for t in tokens:
        far = outside(points.tokens, np.log2(t)), outside(points.width, np.log2(width))
        if not force:
            _refuse("--tokens", t, far[0], points.tokens, "budgets")
            _refuse("--width", width, far[1], points.width, "widths")
        laws = {name: lines[name].at(t, width) for name in ("lr_best", "batch_best") if name in lines}
        laws |= _critical(points, t, width)
        laws |= {name: law.at(t, width) for name, law in lines.items() if name.startswith("batch_crit:")}
        laws |= _lr_at(points, batch, t, width) if batch else {}
        if not laws:
            raise ConfigError("predict: no law could be fitted; `bcrit analyse` says what the grid lacks")
        setting = Setting(t, family.without_embeddings(width) if family else None, anchor)
        predictions.append(Prediction(t, width, *far, laws, tuple((law, law.value(setting)) for law in LAWS)))
    return tuple(predictions)


def params_of_width(table: pd.DataFrame) -> ParamsOfWidth | None:
    """a and b of n_params = a N^2 + b N; None without two widths or where the parameters do not follow it to 1 %."""
    if "n_params" not in table:
        return None
    sizes = table[["width", "n_params"]].dropna().drop_duplicates().to_numpy(float)
    if np.unique(sizes[:, 0]).size < 2:
        return None
    n, params = sizes.T
    design = np.column_stack([n**2, n]) / params[:, None]
    a, b = np.linalg.lstsq(design, np.ones(n.size), rcond=None)[0]
    follows = np.max(np.abs(design @ [a, b] - 1)) < 0.01
    return ParamsOfWidth(float(a), float(b)) if follows and a > 0 else None


def _width(points: Points, family: ParamsOfWidth | None, width: float | None, n_params: float | None) -> float:
    if width is not None and n_params is not None:
        raise ConfigError("--width and --n-params: both say how large the model is; give one")
    if width is not None:
        return width
    if n_params is not None:
        if family is None:
            raise ConfigError(
                f"--n-params {n_params:g}: the table does not say how parameters follow width (two widths of one depth "
                "are needed); give --width"
            )
        return family.width(n_params)
    widths = np.unique(points.width)
    if widths.size > 1:
        raise ConfigError(f"--width: the table has N = {_list(widths)}; say for which size, or give --n-params")
    return float(2.0 ** widths[0])


def _refuse(option: str, value: float, far: float, log2_grid: np.ndarray, what: str) -> None:
    span = float(np.ptp(log2_grid))
    if far > span + SLACK:
        grid = _list(np.unique(log2_grid))
        raise ConfigError(
            f"{option} {value:.6g}: {far:.1f} octaves beyond the tuned {what} ({grid}), which span {span:.1f}: train "
            "nearer ones, or ask with --force"
        )


def _list(log2_values: np.ndarray) -> str:
    values = [f"{2.0**x:.0f}" for x in log2_values]
    return ", ".join(values if len(values) <= 4 else [*values[:2], "...", values[-1]])


def _critical(points: Points, tokens: float, width: float) -> dict[str, Estimate]:
    """B_crit by the forms of eta*(B) that have one: their fit over all budgets, quoted at this T and N."""
    fits = {
        definition: fit_law(points, form, reference_tokens=tokens, reference_width=width)
        for form, definition in DEFINITION_OF_FORM.items()
    }
    return {f"batch_crit:{name}": fit.estimate("batch_crit") for name, fit in fits.items() if fit}


def _lr_at(points: Points, batch: float, tokens: float, width: float) -> dict[str, Estimate]:
    """eta* at one batch by the forms within the threshold of the lowest AICc; by all if AICc cannot compare them."""
    fits, aicc, _ = compare_forms(points)
    verdict = verdict_of(None, aicc)
    chosen = [fit.form for fit in fits] if verdict.verdict == "too few points" else verdict.candidates
    found = {form: fit_law(points, form, reference_tokens=tokens, reference_width=width) for form in chosen}
    return {f"lr_at_batch:{batch:.0f}:{form}": fit.lr_at(batch) for form, fit in found.items() if fit}
