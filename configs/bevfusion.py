"""BEVFusion, lidar + camera, on the GPUs that are there: the reference's total batch, LR and updates on 1, 2, 4, 8 or 16 of them.

Batch       32 = the reference's 8 GPUs x 4 samples. A follows from the GPUs: 1 x 2 x A16, 2 x 2 x A8, 4 x 2 x A4, 8 x 2 x A2, two
            machines of 8 x 2 x A1. Nothing is scaled. Where no whole A makes 32 (3 GPUs), the run stops and names the nearest plans.
Updates     6 epochs of 3,862 = 23,172, LR and beta1 of each as on the reference's machine.
Expected    Not yet measured. Reference: 68.6 mAP / 71.4 NDS (mmdetection3d projects/BEVFusion). 4 GPUs x 4 samples with a linear LR
            gave 68.2 / 71.3 (mit-han-lab/bevfusion#310). What differs from the reference: BatchNorm sees samples_per_gpu, not 4.
Memory      2 samples in half precision fit in 24 GB (mit-han-lab/bevfusion#630; computed: 9 GiB). `--samples-per-gpu auto` takes as
            many as the memory model says fit (4 in 24 GB), `--retry-oom` fewer again if they do not.
First       the lidar stage, configs/bevfusion_lidar.py, from whose work dir this one starts.

    python tools/train.py configs/bevfusion.py
"""

_base_ = ['./_base_/default_runtime.py', './_base_/nuscenes_lidar_cam.py', './_base_/bevfusion_lidar_cam_model.py']

# What to change
data_root = '{{$NUSCENES_SAMPLE:data/nuscenes}}'  # the folder, or a sample's from the environment
lidar_checkpoint = 'work_dirs/bevfusion_lidar/epoch_20.pth'  # where configs/bevfusion_lidar.py leaves it
image_checkpoint = 'checkpoints/swint-nuimages-pretrained.pth'  # Swin-T pretrained on nuImages
samples_per_gpu = 2
base_batch_size = 32  # what lr was tuned for: 8 GPUs x 4 samples
total_batch_size = base_batch_size  # on any number of GPUs: accumulative_counts follows from it
lr = 2e-4
max_epochs = 6

# One-cycle with the reference's marks: from a third of the peak over 500 of 23,172 updates, down to peak x 1e-4; beta1 turns
# at 0.4 of the training. mmdetection3d's config lets beta1 end at 1.0 (its values were ratios once, mmdetection3d#3115).
warmup_share = 500 / 23172
beta1 = 0.9
param_scheduler = [
    dict(
        type='bevfusion_plugin.OneCycleParamScheduler',
        pct_start=warmup_share,
        div_factor=3.0,
        final_div_factor=1e4 / 3.0,  # the end is peak / div_factor / final_div_factor = peak x 1e-4
        moms=(beta1, beta1 * 0.85 / 0.95),
        mom_pct_start=0.4,
        begin=0,
        end=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    )
]
optim_wrapper = dict(
    type='bevfusion_plugin.AccumulativeAmpOptimWrapper',
    constructor='bevfusion_plugin.OpenPCDetOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=lr, betas=(beta1, 0.999), weight_decay=0.01),  # the constructor has it fused where torch can
    accumulative_counts='auto',
    total_batch_size=total_batch_size,
    # no dtype: the device's own, float16 on CUDA (with a loss scale) and bfloat16 on a CPU
    loss_scale='dynamic',
    clip_grad=dict(max_norm=35, norm_type=2),
)
auto_scale_lr = dict(enable=False, base_batch_size=base_batch_size, rule='linear')

train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=1)
train_dataloader = dict(
    batch_size=samples_per_gpu,
    sampler=dict(total_batch_size=total_batch_size),  # whole updates: 123,584 = 3,862 x 32 samples an epoch, 4 of them twice
    dataset=dict(dataset=dict(data_root=data_root)),
)
val_dataloader = dict(dataset=dict(data_root=data_root))
val_evaluator = dict(data_root=data_root, ann_file=data_root + '/nuscenes_infos_val.pkl')
test_dataloader = val_dataloader
test_evaluator = val_evaluator

model = dict(img_backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=image_checkpoint)))
load_from = lidar_checkpoint
