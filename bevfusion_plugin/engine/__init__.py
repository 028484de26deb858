"""How a training step is taken: needs torch and mmengine, no model and no mmdet3d."""

from bevfusion_plugin.engine.accumulation.optim_wrapper import AccumulativeAmpOptimWrapper
from bevfusion_plugin.engine.checkpoints.checked_loading import check_mmengines_loading
from bevfusion_plugin.engine.checkpoints.safe_loading import allow_checkpoint_types
from bevfusion_plugin.engine.hooks.auto_scale_lr_hook import AutoScaleLRHook
from bevfusion_plugin.engine.hooks.checkpoint_hook import CheckpointHook
from bevfusion_plugin.engine.hooks.checkpoint_match_hook import CheckpointMatchHook
from bevfusion_plugin.engine.hooks.disable_object_sample_hook import DisableObjectSampleHook
from bevfusion_plugin.engine.hooks.divergence_sentinel_hook import DivergenceSentinelHook
from bevfusion_plugin.engine.hooks.ema_hook import EMAHook
from bevfusion_plugin.engine.hooks.epoch_seed_hook import EpochSeedHook
from bevfusion_plugin.engine.hooks.gradient_noise_scale_hook import GradientNoiseScaleHook
from bevfusion_plugin.engine.hooks.logger_hook import LoggerHook
from bevfusion_plugin.engine.hooks.runtime_info_hook import RuntimeInfoHook
from bevfusion_plugin.engine.hooks.skipped_samples_hook import SkippedSamplesHook
from bevfusion_plugin.engine.hooks.training_monitor_hook import TrainingMonitorHook
from bevfusion_plugin.engine.hooks.window_hook import WindowHook
from bevfusion_plugin.engine.openpcdet.layer_groups import layer_groups
from bevfusion_plugin.engine.openpcdet.optim_constructor import OpenPCDetOptimWrapperConstructor
from bevfusion_plugin.engine.openpcdet.optimization_block import convert_optimization
from bevfusion_plugin.engine.sampling.seekable_sampler import SeekableSampler
from bevfusion_plugin.engine.schedules.param_schedulers import (
    CosineAnnealingParamScheduler,
    CosineWarmupLR,
    OneCycleParamScheduler,
    StepDecayLR,
)

__all__ = [
    'AccumulativeAmpOptimWrapper',
    'AutoScaleLRHook',
    'CheckpointHook',
    'CheckpointMatchHook',
    'CosineAnnealingParamScheduler',
    'CosineWarmupLR',
    'DisableObjectSampleHook',
    'DivergenceSentinelHook',
    'EMAHook',
    'EpochSeedHook',
    'GradientNoiseScaleHook',
    'LoggerHook',
    'OneCycleParamScheduler',
    'OpenPCDetOptimWrapperConstructor',
    'RuntimeInfoHook',
    'SeekableSampler',
    'SkippedSamplesHook',
    'StepDecayLR',
    'TrainingMonitorHook',
    'WindowHook',
    'allow_checkpoint_types',
    'convert_optimization',
    'layer_groups',
]

allow_checkpoint_types()
check_mmengines_loading()
