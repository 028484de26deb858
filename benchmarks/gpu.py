"""What training BEVFusion costs on the GPU of this machine: GiB, samples a second, where the time goes, launches and waits.

Needs no data. Writes one JSON, which tools/plan.py --gpu-memory then reads in place of its estimates, and a page of tables. A row that
runs out of memory is a row that says so; each row is written as soon as it is there, and when the time is over the rest is left out.

Examples:
    python benchmarks/gpu.py                                  # the first GPU; docs/gpu.json and docs/gpu.md
    python benchmarks/gpu.py --device cpu --small --out DIR   # toy sizes, which show that the script works
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

import bevfusion_plugin  # noqa: F401  brings mmcv's operators where mmcv has none
from bevfusion_plugin.doctor.memory.measured import model_key
from on_gpu.page import page
from on_gpu.proofs import accumulation_overhead, resumed
from on_gpu.rows import chosen_backend, forced_backend, measured, release, settings
from on_gpu.stages import launches_and_waits, stage_times
from on_gpu.training import Training

ROOT = Path(__file__).resolve().parents[1]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', choices=['cuda', 'cpu'], default='cuda')
    parser.add_argument('--small', action='store_true', help='the demo\'s model, few points, few rows')
    parser.add_argument('--samples', type=int, nargs='+', default=[1, 2, 3, 4], help='samples of a micro-batch')
    parser.add_argument('--steps', type=int, default=5, help='steps that are timed for a row')
    parser.add_argument('--channels-last', action='store_true', help='2D convolutions with the channels innermost')
    parser.add_argument('--compile', action='store_true', help='image and BEV networks and head through torch.compile')
    parser.add_argument('--minutes', type=float, default=7, help='after so long nothing new is begun')
    parser.add_argument('--out', type=Path, default=ROOT / 'docs', help='folder of gpu.json and gpu.md')
    return parser.parse_args(argv)


def machine(device: str) -> dict[str, Any]:
    """The device and what computes on it."""
    if device == 'cpu':
        return dict(name='a CPU', torch=torch.__version__, gib=None)
    properties = torch.cuda.get_device_properties(0)
    return dict(
        name=properties.name,
        torch=torch.__version__,
        cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version(),
        capability=f'{properties.major}.{properties.minor}',
        gib=properties.total_memory / 1024**3,
    )


def sections(args: argparse.Namespace, cfg: Config, share: float) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What there is to measure besides the table, each as (key, function), in order; one sample, the backend chosen by itself."""
    dtype = 'float16' if args.device == 'cuda' else 'bfloat16'  # a CPU takes ten times as long for float16

    def of_a_training(measure: Callable[[Training], Any], key: str) -> dict[str, Any]:
        release(args.device)
        found = measure(Training(cfg, args.device, 1, dtype, share=share))
        return {'samples': 1, 'dtype': dtype, 'backend': chosen_backend(args.device, dtype), key: found}

    yield 'stages', lambda: of_a_training(lambda training: stage_times(training, args.steps), 'ms')
    yield 'counts', lambda: of_a_training(launches_and_waits, 'counts')
    yield (
        'promises',
        lambda: {
            'a resumed training, differences as a share of the largest move of a parameter': attempted(
                lambda: resumed(cfg, args.device, dtype, share)
            ),
            'a window of accumulated micro-batches': attempted(
                lambda: accumulation_overhead(cfg, args.device, dtype, share, windows=args.steps)
            ),
        },
    )


def attempted(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was measured, or the error in its place: the rest is still wanted."""
    try:
        return measure()
    except Exception as error:
        return dict(error=f'{type(error).__name__}: {error}'.splitlines()[0][:200])


def write(record: dict[str, Any], folder: Path) -> None:
    """The record as ``gpu.json`` and the page ``gpu.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'gpu.json').write_text(json.dumps(record, indent=1) + '\n')
    (folder / 'gpu.md').write_text(page(record))


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0, also without a GPU, which is said; 1 if no row could be measured."""
    args = parse_args(argv)
    if args.device == 'cuda' and not torch.cuda.is_available():
        print('benchmarks/gpu.py: torch finds no GPU, so there is nothing to measure; --device cpu --small --out DIR tries the script')
        return 0
    config = 'configs/bevfusion_demo.py' if args.small else 'configs/bevfusion_4x4090.py'
    cfg, share = Config.fromfile(ROOT / config), 1 / 32 if args.small else 1.0
    cfg.model.update(channels_last=args.channels_last, compiled=args.compile)
    start = time.monotonic()
    command = ' '.join(['python benchmarks/gpu.py', *(sys.argv[1:] if argv is None else argv)])
    record: dict[str, Any] = dict(
        version=1,
        command=command,
        date=datetime.date.today().isoformat(),
        config=config,
        toy=args.small,
        model=model_key(cfg),
        machine=machine(args.device),
        complete=False,
        rows=[],
    )
    with forced_backend(None):
        for key, measure in sections(args, cfg, share):
            record[key] = attempted(measure)
            write(record, args.out)
    rows = settings(args.device, args.samples)
    for row in rows:
        if time.monotonic() - start > 60 * args.minutes:
            break
        record['rows'].append(measured(cfg, args.device, row, args.steps, share))
        print(record['rows'][-1], flush=True)
        write(record, args.out)
    record['complete'] = len(record['rows']) == len(rows)
    write(record, args.out)
    print(f'written: {args.out / "gpu.json"}, {args.out / "gpu.md"}')
    return int(not any('error' not in row for row in record['rows']))


if __name__ == '__main__':
    sys.exit(main())
