"""Metadata is in pyproject.toml. This takes configs and tools into the wheel, where mim and the command `bevfusion` look for them."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
PACKAGED = ('configs', 'tools', 'requirements', 'model-index.yml')  # requirements: setup_env.py reads them


class build_py_with_mim(build_py):  # named as setuptools names its commands
    """Lays what is in ``PACKAGED`` into ``bevfusion_plugin/.mim``; an editable install uses the checkout's own."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        mim = Path(self.build_lib) / 'bevfusion_plugin' / '.mim'
        shutil.rmtree(mim, ignore_errors=True)  # of an earlier build
        mim.mkdir(parents=True)
        for name in PACKAGED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, mim / name, ignore=shutil.ignore_patterns('__pycache__', '*.py[cod]'))
            else:
                shutil.copy2(ROOT / name, mim / name)


setup(cmdclass=dict(build_py=build_py_with_mim))
