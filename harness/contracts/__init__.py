"""What can be plugged in, one file each. The engine knows these types and no strategy, task or probe by name.

Nothing here imports torch, transformers, pandas or numpy: `list` and `--help` load these modules.
"""

from harness.contracts.engines import Engine
from harness.contracts.probes import Finished, Measured, Probe
from harness.contracts.strategies import BaseLoader, Strategy, norms_in_float32, parameter_groups
from harness.contracts.tasks import (
    PARTS,
    TRAINED_ON,
    DataSource,
    Example,
    Metric,
    Part,
    Prediction,
    Splits,
    Task,
)
from harness.spec import Scoring

__all__ = [
    "PARTS", "TRAINED_ON", "BaseLoader", "DataSource", "Engine", "Example", "Finished", "Measured", "Metric", "Part", "Prediction",
    "Probe", "Scoring", "Splits", "Strategy", "Task", "norms_in_float32", "parameter_groups",
]  # fmt: skip
