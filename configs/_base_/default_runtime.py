default_scope = 'mmdet3d'

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    runtime_info=dict(type='bevfusion_plugin.RuntimeInfoHook'),
    logger=dict(type='bevfusion_plugin.LoggerHook', interval=10),  # updates
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='bevfusion_plugin.CheckpointHook', interval=1, max_keep_ckpts=3),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    # Each rank keeps its own BatchNorm statistics while training; validation needs one set for all.
    sync_buffers=dict(type='SyncBuffersHook'),
)

custom_hooks = [
    dict(type='bevfusion_plugin.WindowHook'),
    dict(type='bevfusion_plugin.AutoScaleLRHook'),
    dict(type='bevfusion_plugin.TrainingMonitorHook'),
    dict(type='bevfusion_plugin.CheckpointMatchHook'),
    dict(type='bevfusion_plugin.EpochSeedHook'),
    dict(type='bevfusion_plugin.SkippedSamplesHook'),
    dict(type='bevfusion_plugin.DivergenceSentinelHook', action='stop'),
    dict(type='bevfusion_plugin.TrainingReportHook'),
]

env_cfg = dict(
    # Off: the search may choose other algorithms in a resumed run, and its workspaces can take gigabytes that a plan for 24 GB does
    # not know of. All 2D shapes are fixed, so that it may pay: --cfg-options env_cfg.cudnn_benchmark=True.
    # TF32 stays as torch has it: on in convolutions, off in matrix products, since the view transform multiplies matrices in float32
    # (with 11 bits frustum points move by cells) and all large products are in half precision. TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1.
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    # The other ranks wait while the first one evaluates nuScenes, which can outlast torch's 10 minutes.
    dist_cfg=dict(backend='nccl', timeout=7200),
)

visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')])
log_processor = dict(type='LogProcessor', window_size=10, by_epoch=True)
log_level = 'INFO'
load_from = None
resume = False
