"""BEVFusion, lidar + camera, on 4 GPUs with 24 GB: close to the reference's total batch, with the LR scaled to it.

Batch       4 GPUs x 3 samples x 3 accumulated = 36; no whole accumulation of 4 x 3 makes 32.
LR          2e-4 x 36 / 32 = 2.25e-4 (linear); `--auto-scale-lr sqrt`: 2e-4 x sqrt(36 / 32) = 2.12e-4.
Updates     6 epochs of 3,433 = 20,598 (reference: 23,172).
Expected    Not yet measured on four GPUs. Reference: 68.6 mAP / 71.4 NDS (mmdetection3d projects/BEVFusion); linear scaling to 16
            samples (4 x 4, LR 1e-4) gave 68.2 / 71.3 (mit-han-lab/bevfusion#310).

    tools/dist_train.sh configs/bevfusion_4x4090_autoscale.py 4
"""

_base_ = './bevfusion.py'

num_gpus = 4
samples_per_gpu = 3
accumulative_counts = 3

train_dataloader = dict(batch_size=samples_per_gpu, sampler=dict(total_batch_size=None))
optim_wrapper = dict(accumulative_counts=accumulative_counts, total_batch_size=None)
auto_scale_lr = dict(enable=True)
