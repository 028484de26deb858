"""Draw the figures of the documentation into docs/images: schedules from the configs, windows and rooms as boxes.

Example:
    python docs/scripts/figures.py
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from mmengine.config import Config

from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.schedule_trace import ScheduleTrace
from bevfusion_plugin.launch.config_file import load_config

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / 'docs' / 'images'
GPUS, COUNTS, EPOCHS = 4, 4, 6  # x 2 samples = 32, the reference's batch
OURS, STOCK, SCALED = '#0072b2', '#d55e00', '#e69f00'  # told apart by those who see red and green alike
SETTINGS = {'svg.fonttype': 'none', 'svg.hashsalt': 'bevfusion_plugin', 'font.size': 10}
ROOMS = (  # from the top floor down, as tests/test_architecture.py holds them
    ('tools/    benchmarks/    the command bevfusion',),
    ('launch/',),
    ('visualization/',),
    ('doctor/',),
    ('models/', 'datasets/', 'evaluation/', 'conversion/', 'synthetic_nuscenes/', 'engine/'),
    ('plan/', 'ops/', 'registry.py'),
)


def stock_config(scaled: bool) -> Config:
    """Four accumulated micro-batches of 2 in MMEngine's own wrapper, under mmdetection3d's schedule.

    Source: mmdetection3d projects/BEVFusion, the schedule of its lidar + camera config (values only).

    Args:
        scaled: Whether MMEngine's ``auto_scale_lr`` is on.
    """
    cfg = load_config(ROOT / 'configs' / 'bevfusion.py')
    turn, whole = 0.4 * EPOCHS, dict(by_epoch=True, convert_to_iter_based=True)
    cfg.optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=2e-4, weight_decay=0.01), accumulative_counts=COUNTS)
    cfg.param_scheduler = [
        dict(type='LinearLR', start_factor=1 / 3, by_epoch=False, begin=0, end=500),
        dict(type='CosineAnnealingLR', begin=0, T_max=EPOCHS, end=EPOCHS, eta_min_ratio=1e-4, **whole),
        dict(type='CosineAnnealingMomentum', eta_min=0.85 / 0.95, begin=0, T_max=turn, end=turn, **whole),
        dict(type='CosineAnnealingMomentum', eta_min=1, begin=turn, T_max=EPOCHS - turn, end=EPOCHS, **whole),
    ]
    cfg.custom_hooks = []
    cfg.auto_scale_lr = dict(enable=scaled, base_batch_size=32)
    return cfg


def traces() -> dict[str, tuple[ScheduleTrace, str, str]]:
    """Label -> curves, colour, line style."""
    ours = load_config(ROOT / 'configs' / 'bevfusion.py')
    return {
        'bevfusion_plugin': (Case(ours, GPUS).trace, OURS, '-'),
        "stock MMEngine, mmdetection3d's schedule": (Case(stock_config(False), GPUS).trace, STOCK, '--'),
        'the same with auto_scale_lr (takes 4 x 2 for the batch)': (Case(stock_config(True), GPUS).trace, SCALED, ':'),
    }


def schedule_figure() -> Figure:
    """Learning rate and beta1 of 4 GPUs x 2 samples x 4 accumulated, over the share of the training."""
    figure = Figure(figsize=(9, 3.4), dpi=110, layout='constrained')
    rate, beta1 = figure.subplots(1, 2)
    for label, (trace, color, style) in traces().items():
        share = np.arange(trace.updates) / trace.updates
        rate.plot(share, trace.lr * 1e4, style, color=color, label=label)
        beta1.plot(share, trace.beta1, style, color=color)
    rate.set(title='learning rate (1e-4)', xlabel='share of the training', ylim=(0, None))
    beta1.set(title='beta1', xlabel='share of the training', ylim=(0.78, 1.02))
    beta1.axhline(1, color='#888888', linewidth=0.8)
    figure.legend(loc='outside lower center', ncols=3, frameon=False, fontsize=9)
    for axis in (rate, beta1):
        axis.spines[['top', 'right']].set_visible(False)
    return figure


def box(axis: Axes, left: float, bottom: float, width: float, height: float, text: str, color: str) -> None:
    """A box with words in it, in units of the axis."""
    axis.add_patch(
        FancyBboxPatch(
            (left, bottom), width, height, boxstyle='round,pad=0,rounding_size=0.06', facecolor=color, edgecolor='#555555', linewidth=0.8
        )
    )
    axis.text(left + width / 2, bottom + height / 2, text, ha='center', va='center')


def blank_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure without axes' lines, one unit an inch."""
    figure = Figure(figsize=(width, height))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, width), ylim=(0, height))
    axis.axis('off')
    return figure, axis


def window_figure() -> Figure:
    """An epoch of ten micro-batches, four a window: three updates, the last one of two micro-batches."""
    figure, axis = blank_figure(9, 2.3)
    for window, (first, size) in enumerate(((0, 4), (4, 4), (8, 2))):
        for micro in range(first, first + size):
            box(axis, 0.2 + 0.7 * micro, 1.15, 0.62, 0.5, f'1/{size}', '#cfe3f2')
        left, right = 0.2 + 0.7 * first, 0.2 + 0.7 * (first + size) - 0.08
        axis.plot([left, left, right, right], [1.05, 0.95, 0.95, 1.05], color='#555555', linewidth=0.8)
        axis.text((left + right) / 2, 0.8, f'window {window}', ha='center', va='top')
        axis.annotate(f'update {window}', (right, 1.65), (right, 2.05), ha='center', arrowprops=dict(arrowstyle='->'))
    axis.plot([7.25, 7.25], [0.6, 1.9], color=STOCK, linestyle='--')
    axis.text(7.35, 1.4, 'the epoch ends:\nso does the window', va='center')
    axis.text(0.2, 0.35, "1/4: the micro-batch's weight in its update; one clip, one exchange of gradients, one step a window", va='center')
    return figure


def equality_figure() -> Figure:
    """Two GPUs that accumulate two micro-batches make the update of four GPUs."""
    figure, axis = blank_figure(9, 2.5)
    axis.text(1.9, 2.3, '2 GPUs x 2 samples x A2', ha='center', va='center')
    axis.text(6.6, 2.3, '4 GPUs x 2 samples x A1', ha='center', va='center')
    for micro in range(4):
        gpu, step = micro % 2, micro // 2
        box(axis, 0.9 + 1.05 * step, 1.35 - 0.75 * gpu, 0.95, 0.6, f'samples\n{2 * micro}, {2 * micro + 1}', '#cfe3f2')
        box(axis, 4.3 + 1.15 * micro, 0.97, 1.07, 0.6, f'GPU {micro}:\n{2 * micro}, {2 * micro + 1}', '#cfe3f2')
    for gpu in range(2):
        axis.text(0.8, 1.65 - 0.75 * gpu, f'GPU {gpu}', ha='right', va='center')
    axis.text(3.6, 1.27, '=', ha='center', va='center', fontsize=24)
    axis.text(
        4.5,
        0.22,
        "each block: its own BatchNorm statistics and its own number of positives; the update is the mean of their gradients",
        ha='center',
        va='center',
    )
    return figure


def rooms_figure(rooms: Sequence[Sequence[str]] = ROOMS) -> Figure:
    """The rooms of the package, floor by floor; arrows point down only."""
    figure, axis = blank_figure(9, 0.75 * len(rooms) + 0.3)
    for floor, names in enumerate(rooms):
        bottom = 0.75 * (len(rooms) - floor - 1) + 0.2
        letter, left = 8.6 / sum(len(name) + 4 for name in names), 0.2
        for name in names:
            width = letter * (len(name) + 4)
            box(axis, left, bottom, width - 0.08, 0.55, name, '#fde5c8' if name == 'engine/' else '#cfe3f2')
            left += width
    return figure


FIGURES = {'lr_beta1.png': schedule_figure, 'window.svg': window_figure, 'equality.svg': equality_figure, 'rooms.svg': rooms_figure}


def main() -> None:
    """Write all of them."""
    with rc_context(SETTINGS):
        for name, draw in FIGURES.items():
            metadata = dict(Software=None) if name.endswith('.png') else dict(Date=None)
            draw().savefig(IMAGES / name, metadata=metadata)


if __name__ == '__main__':
    main()
