"""Experiments: data, models, defences, attacks and their evaluation, described in a TOML file, run into a bundle.

A setting, a file or a folder that cannot be used raises `InputError`, which names it.
"""

from malade_ref.experiment.config import Experiment
from malade_ref.experiment.plan import Step, plan_of
from malade_ref.experiment.reading import Reading, built_in_experiments, read_experiment, settings_of
from malade_ref.experiment.run import Watcher, run_experiment
from malade_ref.experiment.suite import Suite, built_in_suites, run_suite, suite_state

__all__ = [
    "Experiment",
    "Reading",
    "Step",
    "Suite",
    "Watcher",
    "built_in_experiments",
    "built_in_suites",
    "plan_of",
    "read_experiment",
    "run_experiment",
    "run_suite",
    "settings_of",
    "suite_state",
]
