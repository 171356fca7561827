"""What `bcrit mup` prints: the parametrisation of every parameter, as the optimizer gets it."""

from rich.console import Console
from rich.table import Table

from configs.mup import forward_multipliers
from configs.schema import ModelConfig
from train.model import skeleton
from train.parametrization import verify


def print_mup_table(console: Console, model: ModelConfig) -> None:
    """Print the table after it has been checked against the base shapes that `mup` infers."""
    rows = verify(skeleton(model), model)
    multipliers = forward_multipliers(model)
    title = f"{model.parametrization}, width {model.width} (base {model.base_width}), as mup infers it too"
    table = Table(title=title)
    for column in ("parameter", "shape", "role", "init std", "lr x", "weight decay x", "eps x"):
        table.add_column(column, justify="left" if column in ("parameter", "role") else "right")
    for row in rows:
        shape = " x ".join(map(str, row.shape))
        numbers = (row.init_std, row.lr_multiplier, row.weight_decay_multiplier, row.eps_multiplier)
        table.add_row(row.name, shape, row.role, *(f"{number:.6g}" for number in numbers))
    console.print(table)
    console.print(
        f"forward multipliers: embedding {multipliers.embedding:g}, attention {multipliers.attention:.6g}, "
        f"residual branch {multipliers.residual:g}, logits {multipliers.logits:g}"
    )
