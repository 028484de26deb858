"""A training that does not fit into the GPU's memory is started again with fewer samples at once and the same total batch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from mmengine.config import Config

from bevfusion_plugin.doctor.reading.config import short_name

STATUS = os.EX_TEMPFAIL  # of a process that ran out of memory: the same command with other settings may do


def smaller_micro_batch(cfg: Config) -> dict[str, int] | None:
    """What ``--cfg-options`` must say for micro-batches half as big (a third where three does not halve) and the total batch kept.

    None where they cannot shrink: of one sample already, of a batch sampler of the user's, or with a wrapper that is not ours.
    """
    samples, wrapper = cfg.train_dataloader.get('batch_size'), cfg.optim_wrapper
    if not isinstance(samples, int) or samples < 2 or short_name(wrapper) != 'AccumulativeAmpOptimWrapper':
        return None
    parts = next(factor for factor in range(2, samples + 1) if samples % factor == 0)
    counts = wrapper.get('accumulative_counts', 1)
    options = {'train_dataloader.batch_size': samples // parts}
    return options if counts == 'auto' else {**options, 'optim_wrapper.accumulative_counts': counts * parts}


def with_options(arguments: Sequence[str], options: Mapping[str, int]) -> list[str]:
    """The command line with ``options`` in its ``--cfg-options``, in place of what it said of them, that resumes where there is something.

    Args:
        arguments: Of tools/train.py.
        options: See :func:`smaller_micro_batch`.
    """
    arguments = list(arguments)
    if '--samples-per-gpu' in arguments:  # it would be asked again
        flag = arguments.index('--samples-per-gpu')
        del arguments[flag : flag + 2]
    start = arguments.index('--cfg-options') if '--cfg-options' in arguments else len(arguments)
    stop = next((index for index in range(start + 1, len(arguments)) if arguments[index].startswith('--')), len(arguments))
    kept = [option for option in arguments[start + 1 : stop] if option.split('=')[0] not in options]
    resumed = [] if '--resume' in arguments else ['--resume']
    return [*arguments[:start], *arguments[stop:], *resumed, '--cfg-options', *kept, *(f'{key}={value}' for key, value in options.items())]
