"""What `bcrit mup` prints: the parametrisation of every parameter, as the optimizer gets it."""

from dataclasses import astuple
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table
from torch import nn

from configs.errors import ConfigError
from configs.mup import forward_multipliers
from configs.schema import RunConfig
from train.model import skeleton
from train.parametrization import ParametrizationError, Row, base_shapes, check_against_mup, verify

COLUMNS = ("fan-in ratio", "init std", "forward x", "lr x", "weight decay x", "eps x")  # the fields of a RoleRule


def print_mup_table(
    console: Console, config: RunConfig, *, shapes_file: Path | None = None, save_shapes: Path | None = None
) -> None:
    """Print the table after it has been checked against the base shapes that `mup` infers, and those of a file.

    shapes_file: base shapes written by `mup`, which must agree as well; save_shapes: where to write ours for `mup`.
    Raises ConfigError for a file that cannot be read or disagrees, ParametrizationError where `mup` itself does.
    """
    model, network = config.model, skeleton(config.model)
    rows = verify(network, config)
    if shapes_file:
        _check_file(network, shapes_file, rows, config)
    if save_shapes:
        try:
            base_shapes(model, save_shapes)
        except OSError as error:
            raise ConfigError(f"--save-base-shapes {save_shapes}: cannot be written ({error.strerror})") from None
    title = f"{model.parametrization}, width {model.width} (base {model.base_width}), as mup infers it too"
    table = Table(title=title)
    for column in ("parameter", "shape", "role", *COLUMNS):
        table.add_column(column, justify="left" if column in ("parameter", "role") else "right")
    for row in rows:
        shape = " x ".join(map(str, row.shape))
        table.add_row(row.name, shape, row.role, *(f"{number:.6g}" for number in astuple(row.rule)))
    console.print(table)
    forward = forward_multipliers(model)
    tied = f"; the head is the embedding, its logits x {forward.logits:.6g}" if model.tied else ""
    rule = config.optimizer.decay_rule
    console.print(f"attention logits x {forward.attention:.6g}; norm gains start at 1; decay rule {rule}{tied}")
    if save_shapes:
        console.print(f"wrote {save_shapes}, for mup.set_base_shapes")


def _check_file(network: nn.Module, file: Path, rows: tuple[Row, ...], config: RunConfig) -> None:
    try:
        check_against_mup(network, file, rows, config)
    except (OSError, yaml.YAMLError, AttributeError, TypeError, ValueError) as error:  # mup checks nothing
        raise ConfigError(f"--base-shapes {file}: cannot be read as base shapes of mup's: {error}") from None
    except ParametrizationError as error:
        raise ConfigError(f"--base-shapes {file}: {error}; is model.base_width that of the file?") from None
