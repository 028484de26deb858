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
    extras_require={'models': ['mmcv>=2.0.0rc4,<2.2.0', 'mmdet>=3.0.0,<3.4.0', 'mmdet3d>=1.4.0'],
                    'report': ['plotly>=6']},  # tools/report.py and TrainingReportHook
)
