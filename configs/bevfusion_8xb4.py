"""BEVFusion, lidar + camera, on the reference machine: 8 GPUs with at least 32 GB.

Batch       8 GPUs x 4 samples = 32, no accumulation.
Updates     6 epochs of 3,862 = 23,172.
Expected    68.6 mAP / 71.4 NDS (mmdetection3d projects/BEVFusion, as published; not re-run here).
Memory      4 samples in half precision fit in 32 GB (mmdetection3d#2897).

    tools/dist_train.sh configs/bevfusion_8xb4.py 8
"""
_base_ = './bevfusion_4x4090.py'

num_gpus = 8
samples_per_gpu = 4
accumulative_counts = 1

train_dataloader = dict(batch_size=samples_per_gpu)
optim_wrapper = dict(accumulative_counts=accumulative_counts)
