"""What the analysis says: frozen records from the run table's cells up to the whole `Analysis`.

Every estimate carries its interval and its status; a value that the grid cannot identify is a bound, never a point.
"""

from dataclasses import dataclass, field
from typing import Literal

Status = Literal["ok", "lower_bound", "upper_bound", "not_identified"]
CellState = Literal["interior", "edge_low", "edge_high", "too_few", "not_convex"]
Side = Literal["below", "above"]
RuleVerdict = Literal["sqrt", "linear", "neither", "cannot tell"]


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval.

    status `ok`: value and interval hold. `lower_bound`: the truth is >= low (value is None, high is None).
    `upper_bound`: the truth is <= high (value is None, low is None). `not_identified`: nothing can be said.
    """

    value: float | None
    low: float | None
    high: float | None
    unit: str
    status: Status
    method: str


def bounded(value: float | None, low: float | None, high: float | None, unit: str, method: str) -> Estimate:
    """The estimate that an interval allows: a value needs both ends, one end is a bound, none is nothing."""
    if low is not None and high is not None:
        return Estimate(value, low, high, unit, "ok", method)
    status = "lower_bound" if low is not None else "upper_bound" if high is not None else "not_identified"
    return Estimate(None, low, high, unit, status, method)


@dataclass(frozen=True)
class Cell:
    """One (N, T, B) with its learning rates: the optimum, never extrapolated.

    `lr`, `loss`, `curvature` are nan-free: where `state` is not `interior` they are Estimates with a non-ok status
    (edge_low: upper bound on lr*, edge_high: lower bound on lr*). `loss_sigma` is the noise of one run's loss in nats.
    `window_octaves`: how far lr* depends on the window, the spread of log2 `lr_by_window`, which has lr* by every
    window of a documented set (`analysis.sweep`) that has a minimum inside; None unless interior.
    """

    width: int
    tokens: int
    batch_tokens: int
    state: CellState
    lr: Estimate  # eta*, at base width
    loss: Estimate  # loss at eta*, nats
    curvature: Estimate  # nats per octave squared: S_c, of the quadratic in log2 lr
    argmin_lr: float  # raw argmin over the grid
    argmin_loss: float
    n_lrs: int
    n_seeds: int
    n_diverged: int
    window: tuple[float, ...]  # the learning rates the quadratic used
    log2_lr_sigma: float | None  # one standard error of log2 eta*, octaves; None unless interior
    sensitivity: dict[str, Estimate]  # "wortsman", "window1", "window2" (nats)
    loss_sigma: float | None = None  # noise of one run's loss, nats; None if the table cannot tell
    window_octaves: float | None = None
    lr_by_window: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class LrLaw:
    """One form of eta*(B) fitted at one T (pooled over widths) or over all T (`tokens` None)."""

    form: str  # "power", "sqrt_saturation", "linear_saturation", "surge", "surge_plateau"
    tokens: int | None
    parameters: dict[str, Estimate]  # by name, e.g. "lr_crit", "batch_crit"
    rms_octaves: float  # residual
    chi2: float
    n_points: int
    n_parameters: int
    aicc: float | None  # None when there are too few points for it
    weight: float | None  # Akaike weight among the forms of this T
    curve: dict[str, float] = field(default_factory=dict)  # best fit as plain numbers, to draw it: `laws.predict_lr`


@dataclass(frozen=True)
class LrLawVerdict:
    """Which form of eta*(B) the data prefer at one T (or over all T: `tokens` None); `ambiguous` is common."""

    tokens: int | None
    verdict: str  # a form's name, "ambiguous" or "too few points"
    candidates: tuple[str, ...]  # forms within the threshold of the best
    explanation: str


@dataclass(frozen=True)
class CriticalBatch:
    """B_crit at one T by one definition, in tokens."""

    definition: str  # one of `analysis.definitions.DEFINITIONS`
    tokens: int  # T; where a target loss defines it, the tokens in which the best batch reaches it
    batch: Estimate
    factor: float | None = None  # to the hyperbola's value at the same T, else to the surge's
    model: str = ""  # of a table of steps to target, where each model has its own target
    target_loss: float | None = None  # nats, there
    n_params: float | None = None  # of that model
    note: str = ""  # what to know before it is used: batches that were left out, a form that the data rule out


@dataclass(frozen=True)
class BestBatch:
    """B*(T): argmin over B of the loss at eta*(B), per width (or pooled: width None)."""

    width: int | None
    tokens: int
    batch: Estimate
    lr: Estimate  # eta* at B*
    loss: Estimate
    bracket: tuple[int, int]  # the neighbouring grid batches


@dataclass(frozen=True)
class Growth:
    """Power law quantity ~ variable^exponent (times width^exponent_width where fitted), and what checks it.

    `exponent_within`: of T with a level of its own for every N instead of a power of N. `bend`: coefficient of
    log2(T/T0)^2; 0 for a power law. `bootstrap`: the exponent's interval by resampling cells. `choices`: lowest and
    highest exponent over the documented windows and, where forms are not told apart, over those: a second error bar,
    of choices instead of noise. None: does not apply to this quantity, or the points do not allow it.
    """

    quantity: str  # e.g. "batch_crit:time_transfer_surge", "batch_best", "lr_crit", "lr_at_batch:2048", "curvature"
    exponent: Estimate
    coefficient: Estimate  # log2 of the quantity at reference tokens
    exponent_width: Estimate | None
    n_points: int
    reference_tokens: float  # of `variable`
    reference_width: float | None = None  # None where widths are pooled or there is one
    exponent_within: Estimate | None = None
    bend: Estimate | None = None
    bootstrap: Estimate | None = None
    choices: Estimate | None = None
    variable: str = "tokens"  # "n_params" where a quantity is set against the number of parameters alone


@dataclass(frozen=True)
class Collapse:
    """Does N matter once T (and B where the quantity has one) is fixed?

    `p_value`: of a difference between widths as large by chance, were there none. `exponent_width`: its size, as N^e.
    """

    quantity: str  # "lr" (eta* of a cell), "batch_best", "batch_crit:time_transfer_surge", "curvature"
    p_value: float
    exponent_width: Estimate
    n_points: int
    n_widths: int


@dataclass(frozen=True)
class SensitivityLaw:
    """A measure of sensitivity as a power of T, B and (with several widths) N at once, over all interior cells."""

    measure: str  # "wortsman", "window1", "window2", "curvature"
    exponent_tokens: Estimate
    exponent_width: Estimate | None
    exponent_batch: Estimate | None
    coefficient: Estimate  # log2 of the measure at the references
    n_points: int
    reference_tokens: float
    reference_width: float | None
    reference_batch: float | None


@dataclass(frozen=True)
class ScalingRule:
    """Slope of log eta* on log B on one side of B*, at one T or over all (`tokens` None), and the rule it agrees with.

    `sqrt` and `linear`: the interval of the slope holds 1/2 or 1, and not also the other or 0.
    """

    side: Side
    tokens: int | None
    slope: Estimate
    verdict: RuleVerdict
    n_points: int


@dataclass(frozen=True)
class Analysis:
    """Everything `bcrit analyse` knows about one run table; serialised as laws.json."""

    meta: dict[str, object]  # study, schedule, parametrization, fingerprint(s), counts by status, noise, version
    cells: tuple[Cell, ...]
    lr_laws: tuple[LrLaw, ...]
    lr_verdicts: tuple[LrLawVerdict, ...]
    critical_batch: tuple[CriticalBatch, ...]
    best_batch: tuple[BestBatch, ...]
    growth: tuple[Growth, ...]
    warnings: tuple[str, ...]  # plain sentences for the report: what is not identified and why
    scaling_rules: tuple[ScalingRule, ...] = ()
    collapse: tuple[Collapse, ...] = ()
    sensitivity_laws: tuple[SensitivityLaw, ...] = ()
