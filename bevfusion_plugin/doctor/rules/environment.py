"""Rules about the machine and the packages on it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Iterator

import numpy as np
import torch
from mmengine.utils import digit_version

from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.finding import Problem, rule
from bevfusion_plugin.doctor.reading.config import is_ours, mapping, parts, precision_of, short_name
from bevfusion_plugin.doctor.reading.model import has_cameras
from bevfusion_plugin.doctor.reading.pipelines import PASTE, pasting, pipelines
from bevfusion_plugin.engine.accumulation.precision import computes_bfloat16
from bevfusion_plugin.ops.mmcv_ops.extension import takes_our_operators

# What mmdet3d 1.4.0 asserts while it is imported: package -> (lowest, first too high).
RANGES = dict(mmcv=('2.0.0rc4', '2.2.0'), mmdet=('3.0.0rc5', '3.4.0'), mmengine=('0.8.0', '1.0.0'))
OUR_PASTE = f'bevfusion_plugin.{PASTE}'
RESIZED = '2c61eff6'  # of `resized_digest` with Pillow 9.5, 10.4 and 13.0


DISTRIBUTIONS = dict(mmcv=('mmcv', 'mmcv-lite'))  # packages that come under more than one name


def version(package: str) -> str | None:
    """Version of an installed package; None if it is not installed."""
    for name in DISTRIBUTIONS.get(package, (package,)):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    return None


def brings_plugin(case: Case) -> bool:
    """Whether this package is imported when MMEngine reads the config or builds what it names."""
    imports = str(mapping(case.cfg.get('custom_imports')).get('imports'))
    return 'bevfusion_plugin' in imports or any(is_ours(part) for _, part in parts(case.cfg._cfg_dict))


def imports_of_plugin(case: Case) -> dict:
    """The change that brings it; empty where the config's own ``custom_imports`` are for a person to extend."""
    return {} if case.cfg.get('custom_imports') else {'custom_imports': dict(imports=['bevfusion_plugin'], allow_failed_imports=False)}


@rule('gpu-architecture', 'warning', 'https://github.com/open-mmlab/mmdetection3d/issues/2439')
def check_gpu_architecture(case: Case) -> Iterator[Problem]:
    """A GPU that the installed torch has no code for."""
    if torch.cuda.is_available():
        capability = torch.cuda.get_device_capability()
        built = torch.cuda.get_arch_list()
        if not runs_on(capability, built):
            yield Problem(
                f'this GPU is sm_{capability[0]}{capability[1]}, and torch was built for {", ".join(built)}: every '
                'kernel would fail with "no kernel image"',
                'install a torch built for it (and compiled extensions, too)',
            )


def runs_on(capability: tuple[int, int], built: list[str]) -> bool:
    """Whether code built for ``built`` runs on a GPU: a binary of the same major and no higher minor, or PTX of any lower.

    Args:
        capability: Compute capability, such as (8, 9).
        built: Names as ``torch.cuda.get_arch_list`` gives them: ``'sm_86'`` (binary), ``'compute_80'`` (PTX).
    """
    for name in built:
        kind, _, digits = name.partition('_')
        number = int(''.join(each for each in digits if each.isdigit()))
        major, minor = divmod(number, 10)
        is_binary = kind == 'sm' and major == capability[0] and minor <= capability[1]
        if is_binary or kind == 'compute' and (major, minor) <= capability:
            return True
    return False


@rule('bfloat16-emulated', 'error', 'https://github.com/pytorch/pytorch/pull/148322')
def check_bfloat16(case: Case) -> Iterator[Problem]:
    """bfloat16 on a GPU that only emulates it; a warning for a training that is planned, perhaps for another machine."""
    if torch.cuda.is_available() and precision_of(case.cfg) == 'bfloat16' and not computes_bfloat16():
        yield Problem(
            f'the training is in bfloat16, which {torch.cuda.get_device_name()} does not compute in: torch would emulate '
            'it, many times slower',
            "set optim_wrapper.dtype='float16'",
            {'optim_wrapper.dtype': 'float16'},
            severity=None if case.starting else 'warning',
        )


@rule('operators-not-compiled', 'warning', 'https://github.com/open-mmlab/mmdetection3d/issues/2832')
def check_compiled_operators(case: Case) -> Iterator[Problem]:
    """mmcv without its compiled operators and without ours, or BEVFusion's extension asked for and absent."""
    if _needs_mmcv(case) and takes_our_operators() and not brings_plugin(case):
        yield Problem(
            'mmcv is installed without its compiled operators, and nothing in this config brings the torch ones of bevfusion_plugin',
            "add custom_imports=dict(imports=['bevfusion_plugin']); a script that imports mmdet3d itself, as mmdet3d's "
            'own tools/train.py does, needs the line `import bevfusion_plugin` above that',
            imports_of_plugin(case),
        )
    imports = mapping(case.cfg.get('custom_imports')).get('imports') or []
    if any(str(name).startswith('projects.BEVFusion') for name in ([imports] if isinstance(imports, str) else imports)) and _absent(
        'projects.BEVFusion.bevfusion.ops'
    ):
        yield Problem(
            'custom_imports names projects.BEVFusion, which Python does not find here (another package called '
            'projects, no checkout of mmdetection3d, or its extension not built)',
            'use the parts of this package: bevfusion_plugin.BEVFusion and the others, which need no compiler',
        )


@rule('operators-without-cuda', 'error', 'https://github.com/open-mmlab/mmcv/issues/3104')
def check_cuda_operators(case: Case) -> Iterator[Problem]:
    """mmcv compiled for CPUs on a machine that trains on a GPU: the first loss would fail."""
    if _needs_mmcv(case) and torch.cuda.is_available() and not has_cuda_operators():
        yield Problem(
            'torch finds a GPU, and mmcv was compiled without its CUDA operators',
            'put mmcv-lite in its place (pip uninstall mmcv; pip install --no-deps "mmcv-lite<2.2"): the operators of this '
            'package run on any GPU; or train on the CPU with CUDA_VISIBLE_DEVICES= in the environment',
        )


def _needs_mmcv(case: Case) -> bool:
    return case.cfg.get('default_scope') in ('mmdet', 'mmdet3d') and version('mmcv') is not None


def has_cuda_operators() -> bool:
    """Whether mmcv's operators run on a GPU."""
    from mmcv.ops import get_compiling_cuda_version

    return takes_our_operators() or get_compiling_cuda_version() != 'not available'


def _absent(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is None
    except ImportError:
        return True


@rule('package-versions', 'warning', 'mmdet3d/__init__.py')
def check_versions(case: Case) -> Iterator[Problem]:
    """Versions that mmdet3d refuses."""
    if case.cfg.get('default_scope') != 'mmdet3d':
        return
    for package, (lowest, too_high) in RANGES.items():
        found = version(package)
        if found and not digit_version(lowest) <= digit_version(found) < digit_version(too_high):
            yield Problem(
                f'{package} {found} is installed; mmdet3d 1.4.0 takes {lowest} and above, below {too_high}',
                f'pip install "{package}>={lowest},<{too_high}"',
            )


@rule('numpy-without-long', 'error', 'mmdet3d/datasets/transforms/dbsampler.py, DataBaseSampler.sample_all')
def check_numpy_long(case: Case) -> Iterator[Problem]:
    """mmdet3d's ObjectSample on a numpy that has no ``np.long``: the first pasted object ends the training."""
    found = pasting(case.cfg)
    if found is None or not digit_version('1.24') <= digit_version(version('numpy')) < digit_version('2.0'):
        return
    if any(not is_ours(step) for step in found.named(PASTE)):
        yield Problem(
            f"mmdet3d's {PASTE} uses np.long, which numpy {version('numpy')} does not have",
            f'use bevfusion_plugin.{PASTE}, or numpy below 1.24',
            found.rewritten(lambda step: dict(step, type=OUR_PASTE) if short_name(step) == PASTE else step),
        )


@rule('resume-refused', 'warning', 'https://github.com/open-mmlab/mmengine/issues/1655')
def check_resumable(case: Case) -> Iterator[Problem]:
    """Checkpoints that can be written and not be read again."""
    refused = digit_version(version('torch')) >= digit_version('2.6') and digit_version(version('mmengine')) <= digit_version('0.10.7')
    if refused and not brings_plugin(case) and mapping(case.cfg.get('train_cfg')):
        yield Problem(
            f'torch {version("torch")} refuses to load what mmengine {version("mmengine")} stores: the training cannot be resumed',
            "add custom_imports=dict(imports=['bevfusion_plugin']), which tells torch what MMEngine's checkpoints hold",
            imports_of_plugin(case),
        )


@rule('pillow-resampling', 'warning', 'https://github.com/mit-han-lab/bevfusion/issues/63')
def check_pillow(case: Case) -> Iterator[Problem]:
    """A Pillow that resizes images otherwise than the one the published weights were trained with."""
    if has_cameras(case.cfg) and any(each.named('ImageAug3D') for each in pipelines(case.cfg)):
        digest = resized_digest()
        if digest != RESIZED:
            yield Problem(
                f'Pillow {version("pillow")} resizes a test image to other values than Pillow 9.5 to 13 (digest '
                f'{digest}, expected {RESIZED}); camera accuracy hangs on it',
                'install another version of Pillow',
            )


def resized_digest() -> str:
    """First digits of the SHA-256 of a small image after ``Image.resize`` as the references call it, without naming a filter."""
    from PIL import Image

    values = (np.arange(32 * 18 * 3) * 37 % 251).astype(np.uint8).reshape(18, 32, 3)
    return hashlib.sha256(Image.fromarray(values).resize((15, 9)).tobytes()).hexdigest()[:8]
