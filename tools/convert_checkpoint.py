"""Turn a BEVFusion checkpoint of another code base into one for this package, and say what became of every key.

Examples:
    python tools/convert_checkpoint.py bevfusion-det.pth checkpoints/bevfusion_mit.pth --from mit
    python tools/convert_checkpoint.py cbgs_bevfusion.pth checkpoints/bevfusion_pcdet.pth --from openpcdet --json
    python tools/train.py configs/bevfusion.py --cfg-options load_from=checkpoints/bevfusion_mit.pth

`--from mmdet3d` is for files of mmdetection3d (the names are the same) whose sparse kernels are in an older layout, or that lost
the versions of their modules. The output is for load_from: it has weights, but no optimizer to resume.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from bevfusion_plugin.conversion.checkpoint import convert
from bevfusion_plugin.conversion.file import read_state_dict, write_checkpoint
from bevfusion_plugin.conversion.names import SOURCES, our_name
from bevfusion_plugin.doctor.model_state import build_model_state
from bevfusion_plugin.launch.command_line import UsageError, tool, tool_parser, user_errors
from bevfusion_plugin.launch.config_file import load_config

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument('checkpoint', help='file to convert')
    parser.add_argument('out', help='file to write')
    parser.add_argument('--from', dest='source', required=True, choices=SOURCES, help='code base it was trained with')
    parser.add_argument(
        '--config',
        help='config of the model it is for (default: configs/bevfusion.py, or '
        'configs/bevfusion_lidar.py if the checkpoint has no camera branch)',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace the output file if it exists')
    parser.add_argument('--json', action='store_true', help='print the report as JSON, with all keys')
    return parser.parse_args(argv)


def default_config(keys: Iterable[str], source: str) -> str:
    """Our config for a checkpoint with these keys."""
    has_camera = any((our_name(key, source) or '').startswith('img_backbone.') for key in keys)
    return str(CONFIGS / ('bevfusion.py' if has_camera else 'bevfusion_lidar.py'))


@tool
def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 if every key found its place, 1 if some did not (the rest is written), 2 when nothing can be converted."""
    args = parse_args(argv)
    with user_errors():
        if Path(args.out).exists() and not args.overwrite:
            raise UsageError(f'{args.out} exists; choose another name or add --overwrite')
        weights = read_state_dict(args.checkpoint)
        config = args.config or default_config(weights, args.source)
        cfg = load_config(config)
        if not isinstance(cfg.get('model'), dict):
            raise UsageError(f'{config} has no model; name the config of the model that the checkpoint is for')
        model = build_model_state(cfg)
        result = convert(weights, args.source, model)
        if not result.tensors:
            raise UsageError(f'no tensor of {args.checkpoint} fits the model of {config}:\n{result.table()}')
        write_checkpoint(
            args.out,
            result.tensors,
            getattr(model, '_metadata'),
            converted_from=args.source,
            source_file=Path(args.checkpoint).name,
            missing=result.missing,
        )
    if args.json:
        print(json.dumps(dict(result.to_dict(), config=config, out=args.out), indent=2))
    else:
        print(f'{args.checkpoint} ({args.source}) for the model of {config}\n{result.table()}\nwrote {args.out}')
    return 0 if result.is_complete else 1


if __name__ == '__main__':
    sys.exit(main())
