"""How a training step is taken: needs torch and mmengine, no model and no mmdet3d."""
from bevfusion_plugin.engine.batch_plan import BatchPlan, count_updates
from bevfusion_plugin.engine.checkpoint_match_hook import CheckpointMatchHook
from bevfusion_plugin.engine.disable_object_sample_hook import DisableObjectSampleHook
from bevfusion_plugin.engine.openpcdet import convert_optimization
from bevfusion_plugin.engine.optim_constructor import OpenPCDetOptimWrapperConstructor, layer_groups
from bevfusion_plugin.engine.param_scheduler import (CosineAnnealingParamScheduler, CosineWarmupLR, OneCycleParamScheduler,
                                                     StepDecayLR)
from bevfusion_plugin.engine.safe_checkpoint import allow_checkpoint_types

__all__ = ['BatchPlan', 'CheckpointMatchHook', 'DisableObjectSampleHook', 'allow_checkpoint_types', 'count_updates']

allow_checkpoint_types()
