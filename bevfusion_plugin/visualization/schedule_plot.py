"""Pictures of learning-rate and momentum schedules: one config with its marks, or several on common axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mmengine.config import Config

from bevfusion_plugin.doctor.reading.config import count, hooks, short_name
from bevfusion_plugin.doctor.schedule_trace import ScheduleTrace

SUFFIXES = ('.png', '.svg')
COLUMN_WIDTH, HEIGHT = 5.2, 6.6  # inches
MAX_EPOCH_LINES = 40
COMPARED = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00')  # told apart by those who see red and green alike
STYLES = ('-', '--', '-.', ':')
COLORS = dict(curve='#1f77b4', warmup='#2ca02c', peak='#d62728', paste='#9467bd', epoch='#dddddd')


@dataclass(frozen=True)
class Schedule:
    """What is drawn of a config.

    Attributes:
        name: Its title.
        trace: The curves.
        paste_end: The first update without pasted objects; None if objects are pasted to the end, or never.
        assumed: Whether the length of an epoch is a guess, because the number of samples is unknown.
    """

    name: str
    trace: ScheduleTrace
    paste_end: int | None = None
    assumed: bool = False


def paste_end(cfg: Config, trace: ScheduleTrace) -> int | None:
    """The first update after ``DisableObjectSampleHook``, ours or mmdet3d's, has acted; None without one or if it never acts."""
    for hook in hooks(cfg):
        if short_name(hook) == 'DisableObjectSampleHook':
            epoch = count(hook.get('disable_after_epoch', 15))
            if epoch and epoch < len(trace.epoch_ends):
                return int(trace.epoch_ends[epoch - 1])
    return None


def picture_paths(out: str | Path) -> list[Path]:
    """What to write for ``out``: itself, or without a suffix a png and an svg.

    Raises:
        ValueError: If the suffix is another one.
    """
    path = Path(out)
    if not path.suffix:
        return [path.with_suffix(suffix) for suffix in SUFFIXES]
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f'the picture must end in {" or ".join(SUFFIXES)}, or in nothing for both, got {out}')
    return [path]


def save_schedules(schedules: Sequence[Schedule], out: str | Path = 'schedule.png') -> list[Path]:
    """The paths of the pictures written, see :func:`picture_paths`.

    Args:
        schedules: At least one.
        out: File to write; its suffix decides the format.

    Raises:
        ValueError: If there is nothing to draw, or on an unknown suffix.
    """
    paths = picture_paths(out)
    figure = draw_schedules(schedules)
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    return paths


def draw_schedules(schedules: Sequence[Schedule]) -> Figure:
    """Learning rate above, beta1 or momentum below. One schedule has its epochs, warm-up and end of pasting marked; several are
    laid over each other, on the left by the share of the training, on the right by updates.

    Raises:
        ValueError: If there is nothing to draw.
    """
    if not schedules:
        raise ValueError('there is no schedule to draw; give at least one config')
    return _draw_alone(schedules[0]) if len(schedules) == 1 else _draw_together(schedules)


def _draw_alone(schedule: Schedule) -> Figure:
    momentum = schedule.trace.momentum
    rows = 1 if momentum is None else 2
    figure = Figure(figsize=(1.5 * COLUMN_WIDTH, HEIGHT * (rows + 1) / 3), dpi=110, layout='constrained')
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    _draw_rate(axes[0], schedule)
    axes[0].set_ylabel('learning rate')
    if momentum is not None:
        _draw_momentum(axes[1], schedule, momentum)
        axes[1].set_ylabel(schedule.trace.momentum_name)
    axes[-1].set_xlabel(f'update{_assumption(schedule)}')
    axes[-1].xaxis.set_major_formatter('{x:,.0f}')
    axes[-1].legend(
        handles=axes[0].get_legend_handles_labels()[0], loc='upper center', bbox_to_anchor=(0.5, -0.25), ncols=2, frameon=False, fontsize=8
    )
    return figure


def _draw_together(schedules: Sequence[Schedule]) -> Figure:
    rows = 2 if any(schedule.trace.momentum is not None for schedule in schedules) else 1
    figure = Figure(figsize=(2 * COLUMN_WIDTH, HEIGHT * (rows + 1) / 3), dpi=110, layout='constrained')
    axes = figure.subplots(rows, 2, sharex='col', sharey='row', squeeze=False)
    for schedule, color, style in zip(schedules, cycle(COMPARED), cycle(STYLES)):
        trace, label = schedule.trace, f'{schedule.name}: {_way(schedule)}{_assumption(schedule)}'
        curves = [trace.lr] if trace.momentum is None else [trace.lr, trace.momentum]
        updates = np.arange(1, trace.updates + 1)
        for column, steps in zip(axes.T, (100 * updates / trace.updates, updates)):
            for axis, values in zip(column, curves):
                axis.plot(steps, values, style, color=color, linewidth=1.8, label=label)
                axis.plot(steps[-1:], values[-1:], 'o', color=color, markersize=4)
    for axis in axes.flat:
        axis.spines[['top', 'right']].set_visible(False)
    axes[0, 0].set_ylabel('learning rate')
    axes[0, 0].ticklabel_format(axis='y', style='sci', scilimits=(-2, 3), useMathText=True)
    if rows == 2:
        axes[1, 0].set_ylabel(' / '.join(dict.fromkeys(each.trace.momentum_name for each in schedules if each.trace.momentum_name)))
    for axis, title in zip(axes[-1], ('share of the training, %', 'update')):
        axis.set_xlabel(title)
        axis.xaxis.set_major_formatter('{x:,.0f}')
    figure.legend(handles=axes[0, 0].get_legend_handles_labels()[0], loc='outside lower center', frameon=False, fontsize=9)
    return figure


def _way(schedule: Schedule) -> str:
    trace = schedule.trace
    return f'{trace.lr[0]:.3g} → {trace.lr[trace.peak]:.3g} → {trace.lr[-1]:.3g}, {trace.updates:,} updates'


def _assumption(schedule: Schedule) -> str:
    return f' (an epoch taken as {schedule.trace.batches_per_epoch:,} micro-batches)' if schedule.assumed else ''


def _draw_rate(axis: Axes, schedule: Schedule) -> None:
    trace = schedule.trace
    _draw_curve(axis, schedule, trace.lr)
    peak = trace.lr[trace.peak]
    axis.plot([trace.peak], [peak], 'o', color=COLORS['peak'], label=f'peak {peak:.4g} at {trace.peak:,}', zorder=4)
    axis.set_title(f'{schedule.name}\n{_way(schedule)}', fontsize=10)
    axis.ticklabel_format(axis='y', style='sci', scilimits=(-2, 3), useMathText=True)


def _draw_momentum(axis: Axes, schedule: Schedule, momentum: np.ndarray) -> None:
    _draw_curve(axis, schedule, momentum)
    axis.set_title(f'{momentum[0]:.4g} → {momentum[-1]:.4g}, between {momentum.min():.4g} and {momentum.max():.4g}', fontsize=9)


def _draw_curve(axis: Axes, schedule: Schedule, values: np.ndarray) -> None:
    """The curve over the updates, with the marks that both rows share."""
    trace = schedule.trace
    lines = trace.epoch_ends[:: -(-len(trace.epoch_ends) // MAX_EPOCH_LINES) or 1]
    every = '' if len(lines) == len(trace.epoch_ends) else f'every {-(-len(trace.epoch_ends) // MAX_EPOCH_LINES)} epochs'
    for number, end in enumerate(lines):
        axis.axvline(end, color=COLORS['epoch'], linewidth=0.8, zorder=1, label=None if number else every or 'ends of the epochs')
    axis.plot(np.arange(len(values)), values, color=COLORS['curve'], linewidth=1.8, zorder=3)
    if trace.warmup_end:
        axis.axvline(
            trace.warmup_end, color=COLORS['warmup'], linestyle='--', linewidth=1.2, zorder=2, label=f'warm-up ends at {trace.warmup_end:,}'
        )
    if schedule.paste_end is not None:
        axis.axvline(
            schedule.paste_end,
            color=COLORS['paste'],
            linestyle='-.',
            linewidth=1.2,
            zorder=2,
            label=f'DisableObjectSample at {schedule.paste_end:,}',
        )
    axis.spines[['top', 'right']].set_visible(False)
