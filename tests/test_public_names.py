"""The names that users' configs and scripts rely on: one that goes breaks them, so this list only grows."""

import pytest

import bevfusion_plugin
from bevfusion_plugin import ops, registry

TOP_LEVEL = {
    'AccumulativeAmpOptimWrapper',
    'AutoScaleLRHook',
    'BatchPlan',
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
    'count_updates',
    'layer_groups',
}
OPS = {
    'SparseConv3d',
    'SparseModule',
    'SparseSequential',
    'SparseTensor',
    'SubMConv3d',
    'bev_pool',
    'bev_pool_lift',
    'dynamic_voxelize',
    'flatten_cells',
    'grid_size',
    'hard_voxelize',
    'hard_voxelize_batch',
    'mean_voxels',
    'mean_voxels_batch',
}
# registry -> what a config reaches in it as bevfusion_plugin.<name>
REGISTERED = dict(
    PARAM_SCHEDULERS={'CosineAnnealingParamScheduler', 'CosineWarmupLR', 'OneCycleParamScheduler', 'StepDecayLR'},
    OPTIM_WRAPPERS={'AccumulativeAmpOptimWrapper'},
    OPTIM_WRAPPER_CONSTRUCTORS={'OpenPCDetOptimWrapperConstructor'},
    HOOKS={
        'AutoScaleLRHook',
        'CheckpointHook',
        'CheckpointMatchHook',
        'DetectionPictureHook',
        'DisableObjectSampleHook',
        'DivergenceSentinelHook',
        'EMAHook',
        'EpochSeedHook',
        'GradientNoiseScaleHook',
        'LoggerHook',
        'RuntimeInfoHook',
        'SkippedSamplesHook',
        'TrainingMonitorHook',
        'TrainingReportHook',
        'WindowHook',
    },
    DATA_SAMPLERS={'SeekableSampler'},
    MODELS={
        'BEVFusion',
        'BEVFusionSparseEncoder',
        'ConvFuser',
        'DepthLSSTransform',
        'GeneralizedLSSFPN',
        'LSSTransform',
        'SwinTransformer',
        'TransFusionHead',
        'TransformerDecoderLayer',
    },
    TASK_UTILS={'BBoxBEVL1Cost', 'HeuristicAssigner3D', 'HungarianAssigner3D', 'IoU3DCost', 'TransFusionBBoxCoder'},
    TRANSFORMS={
        'BEVFusionGlobalRotScaleTrans',
        'BEVFusionRandomFlip3D',
        'BEVLoadMultiViewImageFromFiles',
        'CheckSample',
        'GridMask',
        'ImageAug3D',
        'ObjectSample',
    },
    DATASETS={'CBGSDataset', 'Custom3DDataset', 'NuScenesDataset', 'SkipBadSamples'},
    METRICS={'CenterDistanceMetric', 'NuScenesMetric'},
)


def test_names_of_the_package_are_there():
    assert TOP_LEVEL <= set(bevfusion_plugin.__all__) and all(hasattr(bevfusion_plugin, name) for name in bevfusion_plugin.__all__)
    assert OPS <= set(ops.__all__) and all(hasattr(ops, name) for name in ops.__all__)


@pytest.mark.parametrize('name', REGISTERED)
def test_registered_names_are_found_by_mmengines_own_registry(name):
    ours = getattr(registry, name)
    for registered in REGISTERED[name]:
        assert ours.parent.get(f'bevfusion_plugin.{registered}').__name__ == registered
    assert set(ours.module_dict) == REGISTERED[name], 'a new name belongs into this list'
