"""Write the table "your GPUs -> what to run" into the READMEs and the pages on configs, from the configs, the plan code and the memory model.

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
PAGES = {'README.md': 'en', 'README_zh-CN.md': 'zh', 'docs/configs.md': 'en', 'docs/zh/configs.md': 'zh'}  # language of each
CONFIGS = ('bevfusion_lidar.py', 'bevfusion.py', 'bevfusion_demo.py')


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument('--check', action='store_true', help='write nothing; exit status 1 if a page is not up to date')
    return parser.parse_args(argv)


def updated_pages() -> dict[Path, str]:
    """The text of each page with the table as it should be."""
    rows = machine_rows(*(load_config(ROOT / 'configs' / name) for name in CONFIGS))
    return {ROOT / name: with_table((ROOT / name).read_text(), machine_table(rows, language)) for name, language in PAGES.items()}


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
        print(f'{path.relative_to(ROOT)}: {"not up to date" if args.check else "written"}')
    return int(bool(stale and args.check))


if __name__ == '__main__':
    sys.exit(main())
