"""The law of eta*(B): five forms, fitted per budget and over all budgets and widths, and which of them the data prefer.

Everything in log2. Over all budgets (methods of Time Transfer, made one fit):
    log2 eta* = e0 + e_T log2(T/T0) + e_N log2(N/N0) + curve(log2 B - log2 B_c)
    log2 B_c  = b0 + b_T log2(T/T0) + b_N log2(N/N0)
with T0, N0 the geometric means of the budgets and widths. Per budget only e0 and b0 remain, widths pooled.
"""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.fitting import Minimum, Model, minimise, profile_interval, threshold, whitener
from analysis.forms import FORMS
from analysis.optimum import Optima
from analysis.results import Estimate, LrLaw, LrLawVerdict, bounded

Array = NDArray[np.floating]
MIN_BATCHES = 3
REACH = 6.0  # octaves beyond the batch grid within which B_c must be bounded to count as identified
STEEPEST = 2.0  # exponent of B_c in T or N that a B_c quoted beyond the grid may have
PLATEAU_REACH = (-6.0, 14.0)  # of the shape of surge_plateau: from no peak at all to a plateau at 1.6 % of the peak
SIGMA_FLOOR = 1e-3  # octaves: no grid knows eta* better, and a noiseless table still has weights
CLOSE = 2.0  # forms within this much AICc of the best are not distinguished
CONTAINS = {"surge_plateau": ("surge",)}  # a form and its special cases: if a special case will do, it is preferred


@dataclass(frozen=True)
class Points:
    """eta* of the interior cells: arrays (n,) in log2, and the covariance (n, n) of `lr`, known from `noise_dof`."""

    width: Array
    tokens: Array
    batch: Array
    lr: Array
    covariance: Array
    noise_dof: int = 0

    def select(self, keep: NDArray[np.bool_]) -> "Points":
        """Some of the points, `keep` (n,)."""
        arrays = (self.width, self.tokens, self.batch, self.lr)
        return Points(
            *(a[keep] for a in arrays), covariance=self.covariance[np.ix_(keep, keep)], noise_dof=self.noise_dof
        )


def points_of(optima: Optima) -> Points:
    """The interior cells as points; an eta* at the edge of its grid is a bound and does not enter a fit."""
    rows = [(c.width, c.tokens, c.batch_tokens, c.lr.value) for c in optima.cells if c.lr.value is not None]
    covariance = optima.lr_covariance.copy()
    np.fill_diagonal(covariance, np.maximum(np.diag(covariance), SIGMA_FLOOR**2))
    values = np.log2(np.array(rows, float).reshape(-1, 4).T)
    return Points(*values, covariance=covariance, noise_dof=optima.noise.dof)


@dataclass(frozen=True)
class LawFit:
    """A fitted form, ready to be profiled; parameters `names` (p,) in log2 where they are rates or batches."""

    form: str
    tokens: int | None
    model: Model
    best: Minimum
    names: tuple[str, ...]
    limits: tuple[tuple[float, float], ...]  # how far each profile is followed
    rise: float  # of chi2, for a 95 % interval
    reference: dict[str, float]  # log2 of tokens, width and (for the power law) batch at which rates are quoted

    def estimate(self, name: str) -> Estimate:
        """A parameter in plain units with its 95 % profile interval; a bound if the profile stays flat on one side."""
        index = self.names.index(name)
        value: float | None = float(self.best.theta[index])
        low, high = profile_interval(self.model, self.best, index, self.limits[index], self.rise)
        method = f"{self.form}, {'one budget' if self.tokens else 'all budgets'}, 95 % profile likelihood"
        if name == "plateau_ratio":
            return bounded(_plateau(value), _plateau(high), _plateau(low), "1", method)
        if name.endswith("exponent"):
            return bounded(value, low, high, "1", method)
        value, low, high = (None if v is None else 2.0**v for v in (value, low, high))
        return bounded(value, low, high, "tokens" if name == "batch_crit" else "lr", method)

    def lr_at(self, batch: float) -> Estimate:
        """eta* at `batch` tokens and the reference T and N; 95 % interval to first order in the parameters."""
        nz, nw = self.model.linear.shape[1], self.model.critical.shape[1]
        x = np.log2(batch) - (0.0 if nw else self.reference["log2_reference_batch"])
        here = Model(self.model.form, np.array([x]), np.zeros(1), np.eye(1), np.eye(nz)[:1], np.eye(nw)[: min(nw, 1)])
        (value,), (row,) = here.evaluate(self.best.theta)
        half = float(np.sqrt(self.rise * (row @ self.best.covariance @ row)))
        low, high = float(2.0 ** (value - half)), float(2.0 ** (value + half))
        return Estimate(
            float(2.0**value), low, high, "lr", "ok", f"{self.form}, all budgets, first-order 95 % interval"
        )


def _plateau(shape: float | None) -> float | None:
    """Plateau / peak of `surge_plateau`, falling in its shape."""
    if shape is None:
        return None
    k = 1 + 2.0**shape
    return float(2 * np.sqrt(k) / (1 + k))


def fit_law(
    points: Points,
    form: str,
    *,
    tokens: int | None = None,
    reference_tokens: float | None = None,
    reference_width: float | None = None,
) -> LawFit | None:
    """Best fit of one form to the points of one budget (`tokens`) or of all budgets (None).

    Over all budgets, exponents in T and N are fitted where the points span them. `reference_tokens` and
    `reference_width` (default: the geometric means) are the T0 and N0 at which rates and B_c are quoted, with intervals
    that hold there. None if there are fewer points than parameters, or fewer than three batches.
    """
    spec = FORMS[form]
    points = points if tokens is None else points.select(points.tokens == np.log2(tokens))
    if np.unique(points.batch).size < MIN_BATCHES:
        return None
    t0 = float(np.mean(np.unique(points.tokens)) if reference_tokens is None else np.log2(reference_tokens))
    n0 = float(np.mean(np.unique(points.width)) if reference_width is None else np.log2(reference_width))
    b0 = float(np.mean(np.unique(points.batch)))
    columns = {"": np.ones_like(points.lr)}
    if tokens is None and np.ptp(points.tokens) > 0:
        columns["_tokens_exponent"] = points.tokens - t0
    if tokens is None and np.ptp(points.width) > 0:
        columns["_width_exponent"] = points.width - n0
    design = np.column_stack(list(columns.values()))
    model = Model(
        form=spec,
        log2_batch=points.batch if spec.has_batch_crit else points.batch - b0,
        y=points.lr,
        whiten=whitener(points.covariance),
        linear=design,
        critical=design if spec.has_batch_crit else design[:, :0],
    )
    if points.lr.size < model.n_parameters:
        return None
    names = [f"lr{suffix}" if suffix else spec.lr_name for suffix in columns]
    names += [f"batch_crit{suffix}" for suffix in columns] if spec.has_batch_crit else []
    names += [spec.shape_name] if spec.shape_name else []

    far = STEEPEST * (outside(points.tokens, t0) + outside(points.width, n0))
    reach = (float(points.batch.min()) - REACH - far, float(points.batch.max()) + REACH + far)
    first = starts(model, reach)
    best = minimise(model, first)
    absolute = {"batch_crit": reach, "plateau_ratio": PLATEAU_REACH}
    for index, name in enumerate(names):  # a run-away towards a limit of the form is stopped at the end of its reach
        if name in absolute and not absolute[name][0] <= best.theta[index] <= absolute[name][1]:
            best = minimise(model, first, (index, float(np.clip(best.theta[index], *absolute[name]))))
    width = {name: REACH if name.endswith("exponent") else 2 * REACH for name in names}
    limits = tuple(
        absolute.get(name, (float(value) - width[name], float(value) + width[name]))
        for name, value in zip(names, best.theta, strict=True)
    )
    rise = threshold(best.chi2, points.lr.size - model.n_parameters, points.noise_dof)
    reference = {"log2_reference_tokens": t0, "log2_reference_width": n0, "log2_reference_batch": b0}
    return LawFit(form, tokens, model, best, tuple(names), limits, rise, reference)


def outside(grid: Array, value: float) -> float:
    """How far `value` lies outside a grid; 0 inside."""
    return float(max(grid.min() - value, value - grid.max(), 0.0))


def starts(model: Model, reach: tuple[float, float]) -> list[Array]:
    """Where to start: the best few of a grid over log2 B_c, its exponent in T and the shape, with e solved exactly."""
    nz, nw = model.linear.shape[1], model.critical.shape[1]
    batches = np.arange(reach[0] + 3, reach[1] - 2) if nw else [0.0]
    exponents = (0.0, 0.5, 1.0) if nw > 1 else (0.0,)
    shapes = [model.form.shape_start] if nw == 0 or not model.form.shape_name else [-1.0, 2.0, 5.0]
    solve = np.linalg.pinv(model.whiten @ model.linear)
    tried = []
    for batch, exponent, shape in itertools.product(batches, exponents, shapes):
        critical = np.array([batch, exponent, *np.zeros(nw)][:nw])
        theta = np.concatenate([np.zeros(nz), critical, [shape] if model.form.shape_name else []])
        theta[:nz] = -solve @ model.evaluate(theta)[0]
        tried.append((float(np.sum(model.evaluate(theta)[0] ** 2)), theta))
    return [theta for _, theta in sorted(tried, key=lambda pair: pair[0])[:3]]


def fit_lr_laws(points: Points, *, tokens: int | None = None) -> tuple[tuple[LrLaw, ...], LrLawVerdict]:
    """Every form at one budget (or over all: None) with AICc and Akaike weights, and which form the data prefer.

    AICc = chi2 / c + 2 k + 2 k (k + 1) / (n - k - 1), with c = max(1, least chi2 / dof of the forms): errors known from
    the cells, enlarged where even the best form misses them (Burnham & Anderson 2002, QAICc).
    """
    fits, aicc, weight = compare_forms(points, tokens=tokens)
    laws = tuple(_law(fit, aicc[fit.form], weight.get(fit.form)) for fit in fits)
    return laws, verdict_of(tokens, aicc)


def compare_forms(
    points: Points, *, tokens: int | None = None
) -> tuple[list[LawFit], dict[str, float | None], dict[str, float]]:
    """The fits of `fit_lr_laws`, their AICc (None: too few points) and Akaike weights, by form."""
    fits = [fit for form in FORMS if (fit := fit_law(points, form, tokens=tokens)) is not None]
    dof = [fit.model.y.size - fit.model.n_parameters for fit in fits]
    inflation = max(1.0, min((fit.best.chi2 / d for fit, d in zip(fits, dof, strict=True) if d > 0), default=1.0))
    aicc = {}
    for fit in fits:
        n, k = fit.model.y.size, fit.model.n_parameters
        aicc[fit.form] = fit.best.chi2 / inflation + 2 * k + 2 * k * (k + 1) / (n - k - 1) if n - k > 1 else None
    known = {form: value for form, value in aicc.items() if value is not None}
    lowest = min(known.values(), default=0.0)
    total = sum(np.exp(-(value - lowest) / 2) for value in known.values())
    return fits, aicc, {form: float(np.exp(-(value - lowest) / 2) / total) for form, value in known.items()}


def _law(fit: LawFit, aicc: float | None, weight: float | None) -> LrLaw:
    residual = fit.model.y - fit.model.linear @ fit.best.theta[: fit.model.linear.shape[1]]
    nz, nw = fit.model.linear.shape[1], fit.model.critical.shape[1]
    shape = float(fit.best.theta[nz + nw]) if fit.model.form.shape_name else 0.0
    x = fit.model.log2_batch - fit.model.critical @ fit.best.theta[nz : nz + nw]
    residual = residual - fit.model.form.curve(x, shape)[0]
    return LrLaw(
        form=fit.form,
        tokens=fit.tokens,
        parameters={name: fit.estimate(name) for name in fit.names},
        rms_octaves=float(np.sqrt(np.mean(residual**2))),
        chi2=fit.best.chi2,
        n_points=residual.size,
        n_parameters=fit.model.n_parameters,
        aicc=aicc,
        weight=weight,
        curve={**dict(zip(fit.names, map(float, fit.best.theta), strict=True)), **fit.reference},
    )


def verdict_of(tokens: int | None, all_aicc: dict[str, float | None]) -> LrLawVerdict:
    """Which form the AICc of `compare_forms` prefer."""
    aicc = {form: value for form, value in all_aicc.items() if value is not None}
    if len(aicc) < len(FORMS) - 1:  # the richest form may lack points, the others may not
        return LrLawVerdict(tokens, "too few points", tuple(aicc), "too few interior cells to compare the forms")
    lowest = min(aicc.values())
    close = [form for form in sorted(aicc, key=aicc.__getitem__) if aicc[form] - lowest <= CLOSE]
    candidates = tuple(form for form in close if not set(CONTAINS.get(form, ())) & set(close))
    if len(candidates) != 1:
        text = f"{', '.join(candidates)} lie within {CLOSE:g} of the lowest AICc: the data do not tell them apart"
        return LrLawVerdict(tokens, "ambiguous", candidates, text)
    others = [value for form, value in aicc.items() if form not in close]
    gap = f"the next form is {min(others) - lowest:.1f} AICc behind" if others else "no other form differs"
    return LrLawVerdict(tokens, candidates[0], candidates, f"{candidates[0]} has the lowest AICc; {gap}")


def predict_lr(law: LrLaw, batch: ArrayLike, tokens: float, width: float) -> Array:
    """eta* (lr, at base width) of the best fit, shape of `batch` (tokens): drawable also where B_c is a bound."""
    spec, c = FORMS[law.form], law.curve
    t, n = np.log2(tokens) - c["log2_reference_tokens"], np.log2(width) - c["log2_reference_width"]
    log2_lr = c[spec.lr_name] + t * c.get("lr_tokens_exponent", 0.0) + n * c.get("lr_width_exponent", 0.0)
    log2_crit = c["batch_crit" if spec.has_batch_crit else "log2_reference_batch"]
    log2_crit += t * c.get("batch_crit_tokens_exponent", 0.0) + n * c.get("batch_crit_width_exponent", 0.0)
    shape = c[spec.shape_name] if spec.shape_name else 0.0
    return 2.0 ** (log2_lr + spec.curve(np.log2(np.asarray(batch, float)) - log2_crit, shape)[0])
