"""Write mmdet3d's info files and ground-truth database for a nuScenes folder, by mmdet3d's own create_data.py.

The packaged create_data.py cannot simply be called: it imports itself as ``tools.dataset_converters``, and reads
the tables from ``./data/nuscenes`` whatever its ``--root-path`` says. This tool runs it unchanged, with that
import path, in a scratch folder whose ``data/nuscenes`` is a link to the given folder, after this package, which
brings mmcv's operators where mmcv has none.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

EXAMPLE = 'example: python tools/prepare_nuscenes.py data/synthetic_nuscenes --version v1.0-mini'
# In the order in which create_data.py writes them: the last is there once all are.
OUTPUTS = ('nuscenes_infos_train.pkl', 'nuscenes_infos_val.pkl', 'nuscenes_gt_database', 'nuscenes_dbinfos_train.pkl')
PACKAGES = {'mmdet3d': 'mmdet3d', 'nuscenes': 'nuscenes-devkit', 'lyft_dataset_sdk': 'lyft_dataset_sdk'}
RUN_SCRIPT = 'import runpy, sys, bevfusion_plugin; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name="__main__")'
TABLES = {'v1.0-mini': 'v1.0-mini', 'v1.0': 'v1.0-trainval'}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE)
    parser.add_argument('root', type=Path, help='folder with samples/, sweeps/, maps/ and the tables')
    parser.add_argument(
        '--version', choices=list(TABLES), default='v1.0', help='v1.0 is trainval, and test if it is there (default: %(default)s)'
    )
    parser.add_argument('--max-sweeps', type=int, default=10, help='most earlier sweeps a sample lists (default: %(default)s)')
    parser.add_argument('--overwrite', action='store_true', help='write them again if they are there already')
    return parser.parse_args(argv)


def find_create_data() -> Path:
    """Path of mmdet3d's packaged create_data.py.

    Raises:
        FileNotFoundError: A package it imports is missing, or this mmdet3d does not bring it.
    """
    for module, package in PACKAGES.items():
        if importlib.util.find_spec(module) is None:
            raise FileNotFoundError(f'{package} is not installed; pip install --no-deps {package}')
    mmdet3d = getattr(importlib.util.find_spec('mmdet3d'), 'origin', None) or ''
    script = Path(mmdet3d).parent / '.mim' / 'tools' / 'create_data.py'
    if not script.is_file():
        raise FileNotFoundError(f'{script} is missing; pip install --no-deps mmdet3d==1.4.0 brings it')
    return script


def check_root(root: Path, version: str) -> None:
    """Raises FileNotFoundError unless ``root`` holds what the converter reads."""
    for name in ('samples', 'sweeps', TABLES[version]):
        if not (root / name).is_dir():
            raise FileNotFoundError(
                f'{root / name} is missing; {root} must be a nuScenes of version {version} '
                '(tools/create_synthetic_nuscenes.py writes a small v1.0-mini)'
            )


def prepare(root: Path, version: str, max_sweeps: int) -> None:
    """Run the converter on ``root``.

    Raises:
        FileNotFoundError: Data or packages are missing.
        RuntimeError: The converter failed; its own message is above.
    """
    check_root(root, version)
    script = find_create_data()
    (root / OUTPUTS[-1]).unlink(missing_ok=True)
    environment = dict(os.environ)
    environment['PYTHONPATH'] = os.pathsep.join([str(script.parents[1]), *filter(None, [os.environ.get('PYTHONPATH')])])
    with tempfile.TemporaryDirectory() as scratch:
        link = Path(scratch, 'data', 'nuscenes')
        link.parent.mkdir()
        link.symlink_to(root.absolute())
        done = subprocess.run(
            [
                sys.executable,
                '-c',
                RUN_SCRIPT,
                str(script),
                'nuscenes',
                '--root-path',
                './data/nuscenes',
                '--out-dir',
                './data/nuscenes',
                '--extra-tag',
                'nuscenes',
                '--version',
                version,
                '--max-sweeps',
                str(max_sweeps),
            ],
            cwd=scratch,
            env=environment,
            check=False,
        )
    no_test_split = version == 'v1.0' and not (root / 'v1.0-test').is_dir()  # it goes for that one last, and fails
    if not (root / OUTPUTS[-1]).is_file() or (done.returncode and not no_test_split):
        raise RuntimeError(f'mmdet3d\'s create_data.py failed on {root} (exit status {done.returncode}); see above')


def check_prepared(root: Path, version: str) -> None:
    """Raises RuntimeError if the info files that ``root`` has are of another version, which has the same names, or damaged."""
    infos = root / OUTPUTS[0]
    try:
        found = pickle.loads(infos.read_bytes())['metainfo']['version']
    except (pickle.UnpicklingError, EOFError, LookupError, TypeError):
        raise RuntimeError(f'{infos} is no whole info file; --overwrite makes it anew') from None
    if found != TABLES[version]:
        raise RuntimeError(f'{infos} was made from {found}, not from {TABLES[version]}; --overwrite makes it anew')


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if all((args.root / name).exists() for name in OUTPUTS) and not args.overwrite:
        try:
            check_prepared(args.root, args.version)
        except RuntimeError as error:
            sys.exit(f'prepare_nuscenes: {error}')
        print(f'{args.root}: prepared already (--overwrite prepares it again)')
        return
    try:
        prepare(args.root, args.version, args.max_sweeps)
    except (OSError, RuntimeError) as error:
        sys.exit(f'prepare_nuscenes: {error}')
    print(f'{args.root}: {", ".join(OUTPUTS)} written')


if __name__ == '__main__':
    main()
