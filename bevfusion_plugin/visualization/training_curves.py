"""A training run's curves, from the log that MMEngine writes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bevfusion_plugin.visualization.run_log import is_evaluation, json_lines, run_folders, scalar_files

Scalars = dict[str, list[tuple[int, float]]]

# Panel title -> what the names of its series look like. Whole words: `base_lr` and `lr/0` are learning rates, `blrb` is not.
PANELS = {
    'loss': re.compile(r'loss(?!_scale)'),
    'learning rate': re.compile(r'(?<![a-z])lr(?![a-z])'),
    'beta1 / momentum': re.compile(r'(?<![a-z])(beta1|momentum)(?![a-z])'),
    'gradient norm': re.compile(r'grad_norm'),
}
LOG_AXIS_PANELS = ('loss', 'gradient norm')
LOG_AXIS_RANGE = 30.0  # what spans more than this factor gets a logarithmic axis
PANEL_SIZE = 12.0, 2.8  # inches
MAX_MARKED = 40  # up to so many values each gets a dot


def read_scalars(work_dir: str | Path) -> Scalars:
    """Series of (step, value) by name, from the newest run in ``work_dir`` that logged any.

    Steps are training iterations; a prefix ``train/`` is dropped. What a validation logs is named ``val/...``, its step is the
    epoch (the iteration with ``LogProcessor(by_epoch=False)``). A resumed run starts where it was resumed.

    Args:
        work_dir: ``work_dir`` of any MMEngine run. The log is ``<timestamp>/vis_data/scalars.json``, or ``<timestamp>.json``
            there or one folder above, with one JSON object a line.

    Raises:
        FileNotFoundError: If there is no such log.
        ValueError: If a line of it is damaged. The last line may be, if the run was killed; it is left out then.
    """
    return _read_log(newest_log(work_dir))


def save_training_curves(work_dir: str | Path, out: str | Path = 'loss_curve.png') -> Path:
    """The path of a picture of the newest run: losses, learning rate, beta1 or momentum and gradient norm, as far as logged.

    Args:
        work_dir: As for :func:`read_scalars`.
        out: File to write; a relative path starts in ``work_dir``. The ending decides the format (png, svg, pdf).

    Raises:
        FileNotFoundError: If there is no log.
        ValueError: If it is damaged, or has no training loss.
    """
    log = newest_log(work_dir)
    scalars = {name: series for name, series in _read_log(log).items() if not name.startswith(('val/', 'test/'))}
    panels = {title: sorted(filter(pattern.search, scalars), key=_total_first) for title, pattern in PANELS.items()}
    panels = {title: names for title, names in panels.items() if names}
    if 'loss' not in panels:
        raise ValueError(f'{log} has no training loss, only {sorted(scalars)}; train for at least one interval of LoggerHook')
    figure = Figure(figsize=(PANEL_SIZE[0], PANEL_SIZE[1] * (len(panels) + 0.5)), dpi=100, layout='constrained')
    figure.suptitle(f'{Path(work_dir).resolve().name} ({_run_folder(log).name})', fontsize=13)
    heights = [1.5 if title == 'loss' else 1.0 for title in panels]
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (title, names) in zip(axes, panels.items()):
        _draw_panel(axis, title, {name: scalars[name] for name in names})
    axes[-1].set_xlabel('iteration')
    path = Path(work_dir) / out
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def newest_log(work_dir: str | Path) -> Path:
    """The log of the newest run in ``work_dir`` that has one with scalars in it; a test writes none.

    Raises:
        FileNotFoundError: If there is none.
    """
    folder = Path(work_dir)
    runs = run_folders(folder)
    for run in reversed(runs):
        for log in scalar_files(run):
            if _read_log(log):
                return log
    raise FileNotFoundError(
        f'there is no training log in {folder} ({len(runs)} runs found); give the work_dir of an MMEngine '
        "run whose visualizer.vis_backends include dict(type='LocalVisBackend')"
    )


def _run_folder(log: Path) -> Path:
    return log.parent.parent if log.parent.name == 'vis_data' else log.parent


def _total_first(name: str) -> tuple[bool, str]:
    return name != 'loss', name


def _read_log(log: Path) -> Scalars:
    scalars: Scalars = {}
    for entry in json_lines(log):
        step = entry.pop('step', None)
        if step is None:
            continue
        validation = is_evaluation(entry)
        for name, value in entry.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                name = f'val/{name.removeprefix("val/")}' if validation else name.removeprefix('train/')
                scalars.setdefault(name, []).append((step, value))
    return scalars


def _draw_panel(axes: Axes, title: str, series: Scalars) -> None:
    values = np.concatenate([[value for _, value in points] for points in series.values()])
    values = values[np.isfinite(values)]
    if title in LOG_AXIS_PANELS and len(values) and 0 < LOG_AXIS_RANGE * values.min() < values.max():
        axes.set_yscale('log')
    for name, points in series.items():
        steps, heights = zip(*points)
        total = dict(color='black', linewidth=2.0, zorder=3) if name == 'loss' else dict(linewidth=1.3)
        axes.plot(steps, heights, label=name, marker='.' if len(points) <= MAX_MARKED else None, **total)
    axes.set_title(title, fontsize=11, loc='left')
    axes.grid(True, color='#dddddd', linewidth=0.6)
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(loc='upper left', bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9)
