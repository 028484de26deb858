"""Detect objects in one frame: boxes as JSON and as a picture.

The frame is an entry of an info file: one of mmdet3d's (.pkl), or the same written by hand (.json), with paths and matrices of the frame's own
files (docs/custom_data.md). For a model without cameras a point file is enough. Annotations, where there are some, are drawn beside.

Examples:
    python tools/infer.py configs/bevfusion.py work_dirs/bevfusion/epoch_6.pth --info data/nuscenes/nuscenes_infos_val.pkl --index 7
    python tools/infer.py configs/bevfusion_custom.py work_dirs/bevfusion_custom/epoch_20.pth --info frame.json --score-thr 0.2
    python tools/infer.py configs/bevfusion_lidar.py work_dirs/bevfusion_lidar/epoch_20.pth --points frame.bin
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

import torch
from mmengine.logging import MMLogger

import bevfusion_plugin  # noqa: F401  brings mmcv's operators, before mmdet3d is imported
from bevfusion_plugin.launch.command_line import UsageError, add_cfg_options, tool, tool_parser, user_errors
from bevfusion_plugin.launch.config_file import load_config
from bevfusion_plugin.launch.flags import set_work_dir
from bevfusion_plugin.launch.inference import detect, detections, frame_of, loaded_model, packed_frame
from bevfusion_plugin.plan.checked_settings import checked_share
from bevfusion_plugin.visualization.detection_picture_hook import picture_name, sample_figure


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--info', help='info file with the frame, .pkl or .json (default: that of the config\'s test data set)')
    parser.add_argument('--index', type=int, default=0, metavar='N', help='which of its frames, from 0 (default: %(default)s)')
    parser.add_argument('--points', help='point file, for a model without cameras, instead of --info')
    parser.add_argument('--score-thr', type=float, default=0.3, help='leave out boxes with a lower score (default: %(default)s)')
    parser.add_argument('--out-dir', help='where <sample>.json and <sample>.png go (default: work_dirs/<config name>/infer)')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu', help='default: %(default)s')
    add_cfg_options(parser)
    return parser.parse_args(argv)


@tool
def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 when both files are written, 2 when the frame or the model cannot be used."""
    args = parse_args(argv)
    if args.points and args.info:
        raise UsageError(f'--points {args.points} and --info {args.info} name two frames; give one of them')
    with user_errors():
        checked_share('--score-thr', args.score_thr)
        cfg = load_config(args.config, args.cfg_options)
        set_work_dir(cfg, None)
        MMLogger.get_instance('infer', log_level=logging.ERROR)
        packed, class_names = packed_frame(cfg, frame_of(cfg, args.info, args.index, args.points))
        model = loaded_model(cfg, args.checkpoint, args.device)
        sample = detect(model, packed)
        folder = Path(args.out_dir or Path(cfg.work_dir) / 'infer')
        folder.mkdir(parents=True, exist_ok=True)
    found = detections(sample, class_names, args.score_thr)
    picture = folder / picture_name(str(found['sample_idx']))
    inputs = packed['inputs']
    sample_figure(sample, inputs['points'], inputs.get('img'), class_names, args.score_thr).savefig(picture)
    picture.with_suffix('.json').write_text(json.dumps(found, indent=2, allow_nan=False) + '\n')
    print(f'{len(found["boxes"])} boxes with a score >= {args.score_thr:g}: {picture.with_suffix(".json")}, {picture}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
