"""How a training step is taken: needs torch and mmengine, no model and no mmdet3d."""
from bevfusion_plugin.engine.auto_scale_lr_hook import AutoScaleLRHook
from bevfusion_plugin.engine.batch_plan import BatchPlan, count_updates
from bevfusion_plugin.engine.checkpoint_match_hook import CheckpointMatchHook
from bevfusion_plugin.engine.disable_object_sample_hook import DisableObjectSampleHook
from bevfusion_plugin.engine.divergence_sentinel_hook import DivergenceSentinelHook
from bevfusion_plugin.engine.epoch_seed_hook import EpochSeedHook
from bevfusion_plugin.engine.ema_hook import EMAHook
from bevfusion_plugin.engine.gradient_noise_scale_hook import GradientNoiseScaleHook
from bevfusion_plugin.engine.openpcdet import convert_optimization
from bevfusion_plugin.engine.optim_constructor import OpenPCDetOptimWrapperConstructor, layer_groups
from bevfusion_plugin.engine.optim_wrapper import AccumulativeAmpOptimWrapper
from bevfusion_plugin.engine.param_scheduler import (CosineAnnealingParamScheduler, CosineWarmupLR, OneCycleParamScheduler,
                                                     StepDecayLR)
from bevfusion_plugin.engine.safe_checkpoint import allow_checkpoint_types
from bevfusion_plugin.engine.training_monitor_hook import TrainingMonitorHook

__all__ = ['AccumulativeAmpOptimWrapper', 'AutoScaleLRHook', 'BatchPlan', 'CheckpointMatchHook',
           'CosineAnnealingParamScheduler', 'CosineWarmupLR', 'DisableObjectSampleHook', 'DivergenceSentinelHook', 'EMAHook',
           'EpochSeedHook', 'GradientNoiseScaleHook', 'OneCycleParamScheduler', 'OpenPCDetOptimWrapperConstructor',
           'StepDecayLR', 'TrainingMonitorHook', 'allow_checkpoint_types', 'convert_optimization', 'count_updates',
           'layer_groups']

allow_checkpoint_types()
