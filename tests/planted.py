"""Run tables with known answers: a law of eta*(T, B), a U-curve around it and a loss floor, all in closed form.

The formulas are written out here, apart from `analysis`, so that a mistake there cannot hide in both.
With `noise=0` every row is exact to floating-point rounding.
"""

import itertools
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Form = Literal["surge", "sqrt_saturation", "linear_saturation", "power"]
Floor = Literal["bowl", "hyperbola"]
SITES = ("embedding", "attention", "ffn", "residual", "logits")


def planted_lr(batch: ArrayLike, form: Form, lr_crit: ArrayLike, batch_crit: ArrayLike) -> NDArray[np.float64]:
    """eta*(B) for one form, shape of `batch`.

    `lr_crit` is eta*(B_c) for surge and power, and the value as B -> infinity for the saturations.
    The power law is lr_crit * (B / batch_crit)^(1/2): the limit of the others for B << B_c, up to a factor.
    """
    x = np.asarray(batch, float) / np.asarray(batch_crit, float)
    shape = {
        "surge": lambda: 2.0 / (x**-0.5 + x**0.5),
        "sqrt_saturation": lambda: (1.0 + 1.0 / x) ** -0.5,
        "linear_saturation": lambda: 1.0 / (1.0 + 1.0 / x),
        "power": lambda: x**0.5,
    }[form]()
    return np.asarray(lr_crit, float) * shape


def planted_floor(
    width: NDArray[np.float64],
    tokens: NDArray[np.float64],
    batch: NDArray[np.float64],
    *,
    floor: Floor,
    irreducible: float,
    best_batch: NDArray[np.float64],
    bowl: float,
    hyperbola_batch: float,
) -> NDArray[np.float64]:
    """Loss at eta*, nats: irreducible + (N / 64)^-0.1 * (D / 2^18)^-0.2 with D the tokens that count.

    `bowl`: D = T, plus bowl * log2(B / best_batch)^2, so that B*(T) = best_batch exactly.
    `hyperbola`: D = T / (1 + B / hyperbola_batch), so that S = Smin (1 + B_c / B) with B_c = hyperbola_batch exactly,
    at every target loss; the smallest batch is then always the best.
    """
    counted = tokens / (1 + batch / hyperbola_batch) if floor == "hyperbola" else tokens
    excess = bowl * np.log2(batch / best_batch) ** 2 if floor == "bowl" else 0.0
    return irreducible + (width / 64) ** -0.1 * (counted / 2**18) ** -0.2 + excess


def planted_table(
    *,
    widths: tuple[int, ...] = (64, 128),
    budgets: tuple[int, ...] = (2**18, 2**19, 2**20),
    batches: tuple[int, ...] = (2**8, 2**9, 2**10, 2**11, 2**12, 2**13),
    lrs: tuple[float, ...] = tuple(2.0**k for k in range(-12, -3)),
    seeds: tuple[int, ...] = (0,),
    form: Form = "surge",
    lr_crit: float = 2**-7,
    lr_crit_exponent: float = 0.0,
    lr_width_exponent: float = 0.0,
    batch_crit: float = 1500.0,
    batch_crit_exponent: float = 1.0,
    batch_crit_width_exponent: float = 0.0,
    reference_tokens: int = 2**19,
    reference_width: int = 64,
    curvature: float = 0.02,
    curvature_exponent: float = -0.3,
    floor: Floor = "bowl",
    irreducible: float = 1.0,
    best_batch: float = 900.0,
    best_batch_exponent: float = 0.5,
    bowl: float = 0.01,
    hyperbola_batch: float = 2000.0,
    loss_init: float = float(np.log(257)),
    noise: float = 0.0,
    noise_kind: Literal["row", "run"] = "row",
    rng_seed: int = 0,
    diverge_above: float | None = None,
) -> pd.DataFrame:
    """A run table (one row per width, batch, lr, seed and budget) that follows the planted laws exactly.

    With t = T / reference_tokens and n = N / reference_width:
      eta*(T, B)  = planted_lr(B, form, lr_crit * t^lr_crit_exponent * n^lr_width_exponent, B_c)
      B_c(T)      = batch_crit * t^batch_crit_exponent * n^batch_crit_width_exponent
      B*(T)       = best_batch * t^best_batch_exponent                                       (floor="bowl")
      a(T)        = curvature * t^curvature_exponent                                         (nats per octave^2)
      loss        = planted_floor + a(T) * log2(lr / eta*)^2 + noise * N(0, 1)

    `noise` is in nats. Kind "row": independent in every row; "run": one draw shared by all budgets of a run, as when
    one constant-rate run is read out several times. Rows with log2(lr / eta*) > `diverge_above` (octaves) are
    "diverged" with a NaN loss. Columns follow the run table contract; throughput and activations are plausible fillers.
    """
    keys = list(itertools.product(widths, batches, lrs, seeds))
    runs = pd.DataFrame(keys, columns=pd.Index(["width", "batch_tokens", "lr", "seed"]))
    runs["run_id"] = [f"planted{i:05d}" for i in range(len(runs))]
    table = runs.merge(pd.DataFrame({"tokens": budgets}), how="cross")
    width, tokens, batch, lr = (table[c].to_numpy(float) for c in ("width", "tokens", "batch_tokens", "lr"))

    t, n = tokens / reference_tokens, width / reference_width
    batch_crit_cell = batch_crit * t**batch_crit_exponent * n**batch_crit_width_exponent
    lr_crit_cell = lr_crit * t**lr_crit_exponent * n**lr_width_exponent
    octaves = np.log2(lr / planted_lr(batch, form, lr_crit_cell, batch_crit_cell))

    rng = np.random.default_rng(rng_seed)
    draws = rng.standard_normal(len(table) if noise_kind == "row" else len(runs))
    error = noise * (draws if noise_kind == "row" else np.repeat(draws, len(budgets)))
    loss = (
        planted_floor(
            width,
            tokens,
            batch,
            floor=floor,
            irreducible=irreducible,
            best_batch=best_batch * t**best_batch_exponent,
            bowl=bowl,
            hyperbola_batch=hyperbola_batch,
        )
        + curvature * t**curvature_exponent * octaves**2
        + error
    )
    diverged = octaves > (np.inf if diverge_above is None else diverge_above)

    table["loss"] = np.where(diverged, np.nan, loss)
    table["train_loss"] = table["loss"] - 0.01
    table["status"] = np.where(diverged, "diverged", "finished")
    table["loss_init"] = loss_init
    for site in SITES:
        table[f"rms_{site}_init"] = 1.0
        table[f"rms_{site}"] = 1.0 + 0.1 * np.log2(t * 4)
    constants = {
        "study": "planted",
        "depth": 2,
        "budget_tokens": max(budgets),
        "schedule": "constant",
        "parametrization": "mup",
        "precision": "fp32",
        "zero_stage": 1,
        "world_size": 1,
        "data_fingerprint": "planted",
        "code_version": "planted",
        "tokens_per_s": 1e5,
        "peak_memory_bytes": 2**28,
    }
    table = table.assign(**constants)
    table["n_params"] = (14 * 2 * table["width"] ** 2 + 2 * 257 * table["width"]).astype(int)
    table["seconds"] = table["tokens"] / table["tokens_per_s"]
    return table
