"""Commands that write recipes."""

import argparse

from rich.console import Console

from configs.errors import ConfigError


def rescale_command(arguments: argparse.Namespace, console: Console) -> int:
    from configs.load import load_run
    from configs.optimizers import own_rule
    from configs.rescale import recipe_text, rescaled_run
    from configs.rundir import write_atomic

    before = load_run(arguments.config, arguments.overrides)
    rule = arguments.rule or own_rule(before.optimizer.kind)
    after = rescaled_run(before, arguments.batch_tokens, arguments.budget_tokens, rule)
    text = recipe_text(before, after, rule, arguments.noise_scale)
    if arguments.out is None:
        print(text, end="")
        return 0
    if arguments.out.exists():
        raise ConfigError(f"--out {arguments.out}: there is such a file; name another one")
    write_atomic(arguments.out, text)
    print("".join(f"{line}\n" for line in text.splitlines() if line.startswith("#")) + f"wrote {arguments.out}")
    return 0
