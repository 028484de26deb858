"""Turn the OPTIMIZATION block of an OpenPCDet YAML into an MM config.

Examples:
    python tools/convert_openpcdet.py cfgs/nuscenes_models/bevfusion.yaml
    python tools/convert_openpcdet.py second.yaml --base configs/my_second.py --out configs/my_second_onecycle.py
    python tools/train.py configs/my_second_onecycle.py
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bevfusion_plugin.engine.openpcdet.config_text import config_text, read_yaml
from bevfusion_plugin.launch.command_line import UsageError, tool, tool_parser, user_errors


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument('yaml', help="OpenPCDet's config of a model")
    parser.add_argument('--base', help='MM config to lay the optimisation over: a path, or mmdet3d::path inside the package')
    parser.add_argument('--out', help='config file to write (default: print it)')
    return parser.parse_args(argv)


@tool
def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 after converting, 2 when the YAML cannot be converted."""
    args = parse_args(argv)
    with user_errors():
        text = config_text(args.yaml, args.base, args.out)
        notes = read_yaml(args.yaml)[1]
        if args.base and '::' not in args.base and not Path(args.base).is_file():
            raise UsageError(f'--base: there is no config {args.base}')
        if args.out is not None:
            Path(args.out).write_text(text)
    for note in notes:
        print(note, file=sys.stderr)
    if args.out is None:
        print(text, end='')
    else:
        print(f'wrote {args.out}', file=sys.stderr)
    return 0


if __name__ == '__main__':
    sys.exit(main())
