"""BEVFusion for MMDetection3D / MMEngine, with the training recipe that fits the GPUs people own.

Importing this package needs torch and mmengine only: it brings the registries (scope
``bevfusion_plugin``), the batch plan and the engine parts. The models and transforms import mmcv, mmdet
and mmdet3d, and are loaded when a config names one of them. From here on ``mmcv.ops`` can be imported where mmcv has
no compiled operators (mmcv-lite); compiled ones stay in use.
"""

from bevfusion_plugin.engine import *  # noqa: F401,F403
from bevfusion_plugin.engine import __all__ as _engine_names
from bevfusion_plugin.ops.mmcv_ops.extension import provide_operators
from bevfusion_plugin.plan.batch_plan import BatchPlan, count_updates
from bevfusion_plugin.version import __version__

provide_operators()

__all__ = ['BatchPlan', '__version__', 'count_updates', *_engine_names]
