"""BEVFusion's lidar stage on the GPUs that are there: the checkpoint that the lidar + camera recipes start from.

Batch       32 = the reference's 8 GPUs x 4 samples, and BatchNorm sees 4 as there. A follows from the GPUs: 1 x 4 x A8, 2 x 4 x A4,
            4 x 4 x A2, 8 x 4 x A1; two machines of 8 take samples_per_gpu = 2. Nothing is scaled. This stage is full of BatchNorm, and
            its authors advise against accumulating it (mit-han-lab/bevfusion#355, 1 sample a GPU): `--samples-per-gpu auto` takes
            as many samples a GPU as fit (8 in 24 GB, 4 GPUs then accumulate nothing).
Optimiser   OpenPCDet's one-cycle: LR 1e-4 -> 1e-3 -> 1e-8, beta1 0.9 -> 0.8053 -> 0.9, turn at 0.4.
Updates     20 epochs of 3,862 = 77,240. Objects are pasted until epoch 15, then the natural scenes take over.
Precision   float32: sparse convolutions in half precision are known to produce NaN (traveller59/spconv#513).
Expected    Not yet measured. Reference: 64.9 mAP / 69.6 NDS (mmdetection3d projects/BEVFusion).
Memory      4 samples take 8.8 to 9.3 GB in float32 (mmdetection3d#3103; computed: 9.1 GiB).
Then        configs/bevfusion.py, which reads work_dirs/bevfusion_lidar/epoch_20.pth.

    python tools/train.py configs/bevfusion_lidar.py
"""

_base_ = ['./_base_/default_runtime.py', './_base_/nuscenes_lidar.py', './_base_/bevfusion_lidar_model.py']

# What to change
data_root = '{{$NUSCENES_SAMPLE:data/nuscenes}}'  # the folder, or a sample's from the environment
samples_per_gpu = 4
base_batch_size = 32  # what lr was tuned for: 8 GPUs x 4 samples
total_batch_size = base_batch_size  # on any number of GPUs: accumulative_counts follows from it
lr = 1e-3  # the peak
max_epochs = 20
paste_epochs = 15

param_scheduler = [
    dict(
        type='bevfusion_plugin.OneCycleParamScheduler',
        pct_start=0.4,
        div_factor=10.0,
        moms=(0.9, 0.9 * 0.85 / 0.95),
        begin=0,
        end=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    )
]
optim_wrapper = dict(
    type='bevfusion_plugin.AccumulativeAmpOptimWrapper',
    constructor='bevfusion_plugin.OpenPCDetOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=lr, betas=(0.9, 0.999), weight_decay=0.01),
    accumulative_counts='auto',
    total_batch_size=total_batch_size,
    dtype='float32',
    clip_grad=dict(max_norm=35, norm_type=2),
)
auto_scale_lr = dict(enable=False, base_batch_size=base_batch_size, rule='linear')
custom_hooks = _base_.custom_hooks + [dict(type='bevfusion_plugin.DisableObjectSampleHook', disable_after_epoch=paste_epochs)]

train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=5)
paste_objects = dict(
    _base_.paste_objects,
    db_sampler=dict(_base_.paste_objects.db_sampler, data_root=data_root, info_path=data_root + '/nuscenes_dbinfos_train.pkl'),
)
train_pipeline = [paste_objects if step['type'].endswith('ObjectSample') else step for step in _base_.train_pipeline]
train_dataloader = dict(
    batch_size=samples_per_gpu,
    sampler=dict(total_batch_size=total_batch_size),  # whole updates: 123,584 = 3,862 x 32 samples an epoch, 4 of them twice
    dataset=dict(dataset=dict(data_root=data_root, pipeline=train_pipeline)),
)
val_dataloader = dict(dataset=dict(data_root=data_root))
val_evaluator = dict(data_root=data_root, ann_file=data_root + '/nuscenes_infos_val.pkl')
test_dataloader = val_dataloader
test_evaluator = val_evaluator
