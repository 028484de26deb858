"""Train and evaluate a small BEVFusion on this machine, from nothing: data, training, evaluation, pictures, report.

Everything is written below the current folder: data/synthetic_nuscenes and the work dir.

Example:
    python tools/demo.py
    NUSCENES_SAMPLE=path/to/one_frame python tools/demo.py    # on a real frame instead of synthetic data
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from bevfusion_plugin.launch.command_line import tool_parser
from bevfusion_plugin.launch.ranks import rank_command
from bevfusion_plugin.visualization.evaluation_scores import class_precisions, overall_scores
from bevfusion_plugin.visualization.log_progress import draw_progress
from bevfusion_plugin.visualization.training_curves import read_scalars, save_training_curves

ROOT = Path(__file__).resolve().parents[1]  # the project's folder, or .mim of the installed package
SAMPLE_VARIABLE = 'NUSCENES_SAMPLE'  # configs/bevfusion_demo.py takes its data from there
SYNTHETIC = 'data/synthetic_nuscenes'  # where configs/bevfusion_demo.py looks for it


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument('--work-dir', default='work_dirs/bevfusion_demo', help='where everything is written')
    parser.add_argument('--cfg-options', nargs='+', default=[], help='key=value pairs for tools/train.py')
    return parser.parse_args(argv)


def training_processes() -> int:
    """Two, where two CPU cores are free for them: the demo's batch of four is then two of each."""
    return min(2, len(os.sched_getaffinity(0)))


def run_tool(name: str, *args: str, processes: int = 1, as_bars: bool = False) -> None:
    """Run one of the tools beside this file; leave with its status if it fails.

    Each process on one thread, unless the environment says otherwise: with tensors this small a second one costs more than it
    saves. ``as_bars`` shows the log on a terminal as progress bars, and the end of it if the tool fails.
    """
    command = rank_command(processes, ROOT / 'tools' / name, *args)
    environment = {'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': '', **os.environ}
    if not (as_bars and sys.stdout.isatty()):
        status = subprocess.run(command, env=environment).returncode
    else:
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as tool:
            lines = draw_progress(tool.stdout or (), Console())
        status = tool.returncode
        if status:
            print(*lines[-40:], sep='', file=sys.stderr)
    if status:
        sys.exit(status)


def summary(work_dir: Path) -> str:
    """What the run left behind: scores by class, iterations, loss and the paths of its files."""
    scalars = read_scalars(work_dir)
    losses = scalars['loss']
    scores = {name.removeprefix('val/'): points[-1][1] for name, points in scalars.items() if name.startswith('val/')}
    overall = [f'{name} {value:.3f}' for name, value in overall_scores(scores).items()]
    return '\n'.join(
        [
            *(f'  {name:<21}AP {value:.3f}' for name, value in class_precisions(scores).items()),
            f'iterations   {losses[-1][0]}, loss {losses[0][1]:.2f} -> {losses[-1][1]:.2f}',
            f'evaluation   {", ".join(overall) or "none"}',
            f'checkpoint   {(work_dir / "last_checkpoint").read_text()}',
            f'curves       {save_training_curves(work_dir, "loss_curve.png")}',
            f'pictures     {work_dir / "pictures"}',
            f'report       {work_dir / "report.html"}',
        ]
    )


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 when the whole chain ran."""
    args = parse_args(argv)
    on_sample = bool(os.environ.get(SAMPLE_VARIABLE))
    if not on_sample:
        run_tool('create_synthetic_nuscenes.py', '--out', SYNTHETIC, '--image-scale', '0.25')
        run_tool('prepare_nuscenes.py', SYNTHETIC, '--version', 'v1.0-mini', '--max-sweeps', '2')
    options = ['--cfg-options', *args.cfg_options] if args.cfg_options else []
    trial = ['--trial'] if on_sample else []
    run_tool(
        'train.py',
        str(ROOT / 'configs/bevfusion_demo.py'),
        '--work-dir',
        args.work_dir,
        '--seed',
        '0',
        *trial,
        *options,
        processes=training_processes(),
        as_bars=True,
    )
    print(summary(Path(args.work_dir)))
    return 0


if __name__ == '__main__':
    sys.exit(main())
