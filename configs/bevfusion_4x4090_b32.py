"""BEVFusion, lidar + camera, on 4 GPUs with 24 GB: exactly the reference's total batch.

Batch       4 GPUs x 2 samples x 4 accumulated = 32. Nothing is scaled: LR, warm-up and number of updates are the reference's.
Updates     6 epochs of 3,862 = 23,172.
Expected    Not yet measured on four GPUs. Reference: 68.6 mAP / 71.4 NDS (mmdetection3d projects/BEVFusion). What still
            differs from 8 GPUs x 4 samples: BatchNorm sees 2 samples instead of 4.
Memory      2 samples in half precision fit in 24 GB (mit-han-lab/bevfusion#630).

    tools/dist_train.sh configs/bevfusion_4x4090_b32.py 4
"""
_base_ = './bevfusion_4x4090.py'

num_gpus = 4
samples_per_gpu = 2
accumulative_counts = _base_.base_batch_size // (num_gpus * samples_per_gpu)  # 32 / (4 x 2) = 4

train_dataloader = dict(batch_size=samples_per_gpu)
optim_wrapper = dict(accumulative_counts=accumulative_counts)
