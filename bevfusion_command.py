"""The console command ``bevfusion``: ``bevfusion train CONFIG ...`` is ``python tools/train.py CONFIG ...``, from any folder.

Standard library only, and beside the package instead of in it: ``bevfusion setup-env --here`` brings what the package imports.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
from pathlib import Path

USAGE = """usage: bevfusion COMMAND [arguments]

A command is the tool of the same name, `bevfusion COMMAND --help` its help. Configs of the package are found by name:
    bevfusion doctor bevfusion_4x4090.py
    bevfusion train bevfusion_4x4090.py --amp
"""
SHORT = {'browse': 'browse-dataset'}  # of a tool with MM's name


def package_files() -> Path:
    """The folder with ``tools`` and ``configs``: ``.mim`` of the installed package, or the checkout around the package.

    Raises:
        ModuleNotFoundError: If ``bevfusion_plugin`` is not installed.
    """
    spec = importlib.util.find_spec('bevfusion_plugin')  # finds it without importing it
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError('bevfusion_plugin is not installed in this environment; pip install it')
    package = Path(spec.origin).parent
    return package / '.mim' if (package / '.mim').is_dir() else package.parent


def commands() -> dict[str, Path]:
    """Command -> script, for every tool that is written in Python."""
    return {path.stem.replace('_', '-'): path for path in sorted((package_files() / 'tools').glob('*.py'))}


def first_line(script: Path) -> str:
    """What the tool is for, in one line."""
    return (ast.get_docstring(ast.parse(script.read_text(encoding='utf-8'))) or '').partition('\n')[0]


def overview(scripts: dict[str, Path]) -> str:
    """The help: one line a command."""
    return '\n'.join(
        [
            USAGE,
            'commands:',
            *(f'  {name:<26}{first_line(script)}' for name, script in scripts.items()),
            *(f'  {short:<26}{name}' for short, name in SHORT.items()),
        ]
    )


def main(argv: list[str] | None = None) -> int:
    """Become the tool that the first argument names. Exit status: the tool's; 0 after help, 2 if there is no such tool."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    scripts = commands()
    if not arguments or arguments[0] in ('-h', '--help'):
        print(overview(scripts))
        return 0 if arguments else 2
    name = arguments.pop(0)
    script = scripts.get(SHORT.get(name, name.replace('_', '-')))
    if script is None:
        print(f'bevfusion has no command {name!r}; it has {", ".join(scripts)}', file=sys.stderr)
        return 2
    # the same process goes on as the tool: signals reach it, and its exit status is the command's
    os.execv(sys.executable, [sys.executable, str(script), *arguments])


if __name__ == '__main__':
    sys.exit(main())
