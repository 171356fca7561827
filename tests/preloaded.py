"""What the process that ranks are forked from has imported, in the environment of real ones."""

import os

from tests.processes import ENVIRONMENT

os.environ.update(ENVIRONMENT)

import analysis.table  # noqa: F401
import train.pretrain  # noqa: F401
