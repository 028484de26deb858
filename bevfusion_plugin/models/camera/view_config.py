"""What cannot work in the settings of a view transform."""

from __future__ import annotations

from collections.abc import Sequence

from bevfusion_plugin.plan.checked_settings import channel_count, grid_axis, positive_int, whole_numbers

MOST_BINS = 4096  # depths; each makes one map of logits


def check_view_config(
    in_channels: int,
    out_channels: int,
    image_size: Sequence[int],
    feature_size: Sequence[int],
    downsample: int,
    dbound: Sequence[float],
    **bounds: Sequence[float],
) -> None:
    """Raise a ``ValueError`` that names the setting of an ``LSSTransform`` that cannot work, see its arguments.

    Args:
        **bounds: ``xbound``, ``ybound``, ``zbound``.
    """
    channel_count('in_channels', in_channels)
    channel_count('out_channels', out_channels)
    whole_numbers('image_size', image_size, 2, mend='it is (height, width)')
    whole_numbers('feature_size', feature_size, 2, mend='it is (height, width)')
    positive_int('downsample', downsample)
    for name, bound in bounds.items():
        grid_axis(name, bound, 'in metres')
    first, end, step = grid_axis('dbound', dbound, 'in metres')
    if first < 0 or (end - first) / step > MOST_BINS:
        raise ValueError(f'dbound must be (first, end, step) with first >= 0 and at most {MOST_BINS} depths, got {dbound!r}')
