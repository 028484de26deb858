"""Write the table "your GPUs -> what to run" into both READMEs, from the configs, the plan code and the memory model.

Examples:
    python tools/machine_table.py
    python tools/machine_table.py --check
"""
from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bevfusion_plugin.doctor.machines import machine_rows, machine_table, with_table
from bevfusion_plugin.launch.command_line import tool, tool_parser, user_errors
from bevfusion_plugin.launch.config_file import load_config

ROOT = Path(__file__).parents[1]
PAGES = {'en': ROOT / 'README.md', 'zh': ROOT / 'README_zh-CN.md'}
CONFIGS = ('bevfusion_lidar.py', 'bevfusion.py', 'bevfusion_demo.py')


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument('--check', action='store_true', help='write nothing; exit status 1 if a page is not up to date')
    return parser.parse_args(argv)


def updated_pages() -> dict[Path, str]:
    """The text of each page with the table as it should be."""
    rows = machine_rows(*(load_config(ROOT / 'configs' / name) for name in CONFIGS))
    return {path: with_table(path.read_text(), machine_table(rows, language)) for language, path in PAGES.items()}


@tool
def main(argv: list[str] | None = None) -> int:
    """Exit status: 0, 1 if ``--check`` finds a page that is not up to date."""
    args = parse_args(argv)
    with user_errors():
        pages = updated_pages()
    stale = [path for path, text in pages.items() if text != path.read_text()]
    for path in stale:
        if not args.check:
            path.write_text(pages[path])
        print(f'{path.name}: {"not up to date" if args.check else "written"}')
    return int(bool(stale and args.check))


if __name__ == '__main__':
    sys.exit(main())
