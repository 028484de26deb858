"""Whether a checkpoint belongs to a model."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

MIN_SHARE = 0.95  # of a checkpoint's tensors that should fit the model


def unmatched_keys(loaded: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> list[str]:
    """What does not fit, one line a tensor: absent from the model, or of other sizes.

    The order of the axes does not count, since sparse convolutions are stored in two layouts and turned while they load.
    """
    problems = []
    for key, value in loaded.items():
        if key not in model:
            problems.append(f'{key}: not in the model')
        elif sorted(value.shape) != sorted(model[key].shape):
            problems.append(f'{key}: {tuple(value.shape)} in the checkpoint, {tuple(model[key].shape)} in the model')
    return problems
