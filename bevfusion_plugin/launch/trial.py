"""A trial on a sample of the data: what does not come with a sample is left out of the config, by name and with a warning."""

from __future__ import annotations

import logging

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from bevfusion_plugin.doctor.mend import leave_out_weights
from bevfusion_plugin.doctor.missing import evaluators_without_tables


def fit_to_sample(cfg: Config, training: bool) -> None:
    """Take out of ``cfg`` what a sample does not come with, and say so.

    Weights that do not exist are left out, and a metric that needs the nuScenes tables gives way to one that does not.

    Args:
        cfg: The whole config; it is changed.
        training: Whether the initial weights are needed.
    """
    for missing in leave_out_weights(cfg) if training else []:
        print_log(f'{missing.what}; this is a trial, it starts from random weights', 'current', logging.WARNING)
    for name in ('val_evaluator', 'test_evaluator'):
        if evaluators_without_tables(cfg.get(name)):
            print_log(
                f'{name}: there are no nuScenes tables; this is a trial, it is scored by CenterDistanceMetric', 'current', logging.WARNING
            )
            cfg[name] = ConfigDict(type='bevfusion_plugin.CenterDistanceMetric')
