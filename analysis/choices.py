"""How far a growth exponent depends on choices that were not forced: the window of the parabola, the form of eta*(B).

Everything is done again with the optima of every window of the documented set (`analysis.sweep`); only values are kept,
no intervals. A second error bar: the first says what noise does, this one what the analyst does.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from analysis.best_batch import best_batches
from analysis.critical_batch import DEFINITION_OF_FORM
from analysis.growth import power_laws
from analysis.laws import Points, fit_law
from analysis.optimum import Optima
from analysis.results import Cell, Estimate, Growth

Exponents = dict[str, float]  # by quantity


def with_choices(
    laws: Iterable[Growth], optima: Optima, points: Points, candidates: Iterable[str]
) -> tuple[Growth, ...]:
    """The laws with `choices`: the lowest and highest exponent over all windows and `candidates`, the forms of eta*(B)
    that the data do not tell apart."""
    windows = {name: _exponents(cells, optima, points) for name, cells in optima.by_window.items()}
    forms = [DEFINITION_OF_FORM[form] for form in candidates if form in DEFINITION_OF_FORM]
    laws = list(laws)
    own = {law.quantity: law.exponent.value for law in laws}
    return tuple(replace(law, choices=_choices(law, own, windows, forms)) for law in laws)


def _exponents(cells: tuple[Cell, ...], optima: Optima, points: Points) -> Exponents:
    """Exponents in T of what follows from eta*, the tuned loss and the curvature."""
    interior = [cell for cell in cells if cell.state == "interior"]
    moved = replace(points, lr=np.log2([cell.lr.value or np.nan for cell in interior]))
    found: Exponents = {}
    for form, definition in DEFINITION_OF_FORM.items():
        fit = fit_law(moved, form)
        if fit is not None and "batch_crit_tokens_exponent" in fit.names:
            found[f"batch_crit:{definition}"] = float(fit.best.theta[fit.names.index("batch_crit_tokens_exponent")])
            if form == "surge":
                found["lr_crit"] = float(fit.best.theta[fit.names.index("lr_tokens_exponent")])
    for quantity, law in power_laws(moved, cells, (), best_batches(cells, optima.noise), optima.noise).items():
        exponent = law.exponent("tokens")
        if exponent is not None and exponent.value is not None and not quantity.startswith("sensitivity"):
            found[quantity] = exponent.value
    return found


def _choices(
    law: Growth, own: dict[str, float | None], windows: dict[str, Exponents], forms: list[str]
) -> Estimate | None:
    """None where nothing was chosen differently, or the exponent itself is not known."""
    found = {name: by_quantity[law.quantity] for name, by_quantity in windows.items() if law.quantity in by_quantity}
    definition = law.quantity.removeprefix("batch_crit:")
    if definition in forms:
        found |= {form: e for form in forms if (e := own.get(f"batch_crit:{form}")) is not None and form != definition}
    if not found or law.exponent.value is None:
        return None
    every = [law.exponent.value, *found.values()]
    return Estimate(law.exponent.value, min(every), max(every), "1", "ok", f"range over {', '.join(found)}")
