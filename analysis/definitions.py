"""What the quantities are called and how they are defined, the same in figures, tables and sentences (short HTML)."""

from html import escape

from analysis.notation import grid_count
from analysis.results import Analysis

FORMS = {
    "power": "power law",
    "sqrt_saturation": "√ saturation",
    "linear_saturation": "linear saturation",
    "surge": "surge",
    "surge_plateau": "surge with plateau",
}
DEFINITIONS = {
    "time_transfer_surge": (
        "B<sub>crit</sub>, surge form",
        "the batch at which η*(B) stops rising as √B and peaks: B<sub>crit</sub> in "
        "η* = η<sub>crit</sub> / [½(√(B<sub>crit</sub>/B) + √(B/B<sub>crit</sub>))], fitted at each T "
        "(Time Transfer, arXiv:2410.05838; Surge, arXiv:2405.14578)",
    ),
    "time_transfer_surge_all_budgets": (
        "B<sub>crit</sub>, surge form, all T",
        "the same, from one fit of the surge form to all T and N together with power laws in T and N for "
        "B<sub>crit</sub> and η<sub>crit</sub>, read at each T: it borrows strength across T",
    ),
    "sqrt_saturation": (
        "B<sub>crit</sub>, √ saturation",
        "the batch at which η*(B) bends from √B to a constant: B<sub>crit</sub> in η* = η<sub>∞</sub> / √(1 + "
        "B<sub>crit</sub>/B)",
    ),
    "linear_saturation": (
        "B<sub>crit</sub>, linear saturation",
        "the batch at which η*(B) bends from B to a constant, the form of SGD: B<sub>crit</sub> in "
        "η* = η<sub>∞</sub> / (1 + B<sub>crit</sub>/B)",
    ),
    "hyperbola": (
        "B<sub>crit</sub>, hyperbola",
        "E<sub>min</sub>/S<sub>min</sub>: the batch at which twice the fewest steps and twice the fewest tokens are "
        "needed to reach the same loss, B<sub>crit</sub> in S = S<sub>min</sub>(1 + B<sub>crit</sub>/B), fitted to "
        "log S (McCandlish et al., arXiv:1812.06162)",
    ),
    "surge_noise": (
        "B<sub>noise</sub>, 1/S on 1/E",
        "the same law as the straight line 1/S = 1/S<sub>min</sub> − B<sub>noise</sub>/E, by plain least squares "
        "(Surge, arXiv:2405.14578, section 4)",
    ),
    "overhead20": (
        "B<sub>crit</sub>, 20 % overhead",
        "the batch that needs 20 % more tokens to the same loss than linear scaling from a reference batch (256 "
        "sequences where the batches span them, else the smallest): 1.2 B<sub>ref</sub> + a fifth of the hyperbola's "
        "B<sub>crit</sub> (Zhang et al., arXiv:2410.21676)",
    ),
    "power_lines": (
        "B<sub>crit</sub>, Power Lines",
        "the batch that needs twice the fewest tokens, D = D<sub>min</sub>(1 + B/B<sub>crit</sub>): the hyperbola's "
        "law, with each batch's tokens to target from one power law of loss in tokens (Bergsma et al., "
        "arXiv:2505.13738)",
    ),
    "branched": (
        "B<sub>crit</sub>, branched",
        "the largest batch that loses at most 0.01 nats to every smaller one when all branch off one checkpoint for "
        "the same tokens, at the T of the checkpoint (Merrill et al. 2025); the interval is the bracket of the grid",
    ),
    "noise_scale": (
        "gradient noise scale",
        "tr Σ/|G|² as the table gives it: the batch at which the gradient's noise equals its mean "
        "(McCandlish et al., arXiv:1812.06162)",
    ),
    "step_noise": (
        "B<sub>noise</sub>, one step",
        "the batch at which the best single step of signs from a checkpoint lowers the loss half as far as that of an "
        "endless batch, by line search (<code>bcrit surge</code>; Surge, arXiv:2405.14578, Theorem 5)",
    ),
}


def definition_name(definition: str) -> str:
    """Short name of a definition of B_crit, as HTML."""
    return DEFINITIONS.get(definition, (f"B<sub>crit</sub>, {escape(definition.replace('_', ' '))}", ""))[0]


def definitions_of(analysis: Analysis) -> list[str]:
    """The definitions of B_crit that an analysis has, in the order of `DEFINITIONS`, unknown ones last."""
    found = list(dict.fromkeys(crit.definition for crit in analysis.critical_batch))
    return [name for name in DEFINITIONS if name in found] + [name for name in found if name not in DEFINITIONS]


def form_name(form: str) -> str:
    """Name of a form of eta*(B)."""
    return FORMS.get(form, form)


def quantity_name(quantity: str) -> str:
    """Symbol of what a growth law is about, as HTML."""
    kind, _, detail = quantity.partition(":")
    match kind:
        case "batch_crit":
            return definition_name(detail)
        case "batch_crit_per_budget":
            return f"{definition_name(detail)}, T by T"
        case "sensitivity":
            symbols = {"wortsman": "S<sub>W</sub>", "window1": "S<sub>w</sub>(1)", "window2": "S<sub>w</sub>(2)"}
            return f"sensitivity {symbols.get(detail, escape(detail))}"
        case "lr_at_batch":
            return f"η* at fixed B = {grid_count(float(detail))}"
        case _:
            names = {
                "batch_best": "B*",
                "lr_crit": "η<sub>crit</sub>",
                "curvature": "sensitivity S<sub>c</sub>",
                "lr_best": "η* at B*",
            }
            return names.get(kind, escape(quantity.replace("_", " ")))
