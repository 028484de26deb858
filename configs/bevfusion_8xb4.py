"""BEVFusion, lidar + camera, on the reference machine: 8 GPUs with at least 32 GB.

Batch       8 GPUs x 4 samples = 32, no accumulation. On 4 GPUs it accumulates 2, and so on.
Updates     6 epochs of 3,862 = 23,172.
Expected    68.6 mAP / 71.4 NDS (mmdetection3d projects/BEVFusion, as published; not re-run here).
Memory      4 samples in half precision fit in 32 GB (mmdetection3d#2897; computed: 15.3 GiB).

    tools/dist_train.sh configs/bevfusion_8xb4.py 8
"""

_base_ = './bevfusion.py'

num_gpus = 8
samples_per_gpu = 4

train_dataloader = dict(batch_size=samples_per_gpu)
