"""Experiments: data, models, defences, attacks and their evaluation, described in a TOML file, run into a bundle.

A setting, a file or a folder that cannot be used raises `InputError`, which names it.
"""

from malade_ref.experiment.config import Experiment
from malade_ref.experiment.plan import Step, plan_of
from malade_ref.experiment.reading import Reading, built_in_experiments, read_experiment, settings_of
from malade_ref.experiment.run import Watcher, run_experiment

__all__ = [
    "Experiment",
    "Reading",
    "Step",
    "Watcher",
    "built_in_experiments",
    "plan_of",
    "read_experiment",
    "run_experiment",
    "settings_of",
]
