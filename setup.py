from pathlib import Path

from setuptools import find_packages, setup

version: dict = {}
exec(Path('bevfusion_plugin/version.py').read_text(), version)

setup(
    name='bevfusion_plugin',
    version=version['__version__'],
    description='BEVFusion for MMDetection3D / MMEngine with the training recipe that fits the GPUs people own',
    long_description=Path('README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    packages=find_packages(include=['bevfusion_plugin', 'bevfusion_plugin.*']),
    python_requires='>=3.10',
    install_requires=['torch>=2.1', 'mmengine>=0.10.0'],
    # None brings mmdet3d: its own list asks for open3d and black. `python tools/setup_env.py --here` installs it without.
    extras_require={'report': ['plotly>=6'],  # tools/report.py and TrainingReportHook
                    'gpu': ['spconv-triton>=1']},  # faster sparse convolutions on any card; torch 2.4 and above
)
