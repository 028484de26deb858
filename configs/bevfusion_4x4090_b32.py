"""BEVFusion, lidar + camera, on 4 GPUs with 24 GB: configs/bevfusion.py under the name of its machine.

Batch       4 GPUs x 2 samples x 4 accumulated = 32. Nothing is scaled: LR, warm-up and number of updates are the reference's.
Updates     6 epochs of 3,862 = 23,172.
Expected    Not yet measured on four GPUs. Reference: 68.6 mAP / 71.4 NDS (mmdetection3d projects/BEVFusion). What still
            differs from 8 GPUs x 4 samples: BatchNorm sees 2 samples instead of 4.
Memory      2 samples in half precision fit in 24 GB (mit-han-lab/bevfusion#630).

    tools/dist_train.sh configs/bevfusion_4x4090_b32.py 4
"""

_base_ = './bevfusion.py'

num_gpus = 4  # at most, and what tools/plan.py and the doctor look at
