"""BEVFusion's lidar stage on 4 GPUs with 24 GB, without accumulation: configs/bevfusion_lidar.py with 8 samples a GPU.

Batch       4 GPUs x 8 samples = 32 without accumulation: this stage is full of BatchNorm, and its authors advise against
            accumulating it (mit-han-lab/bevfusion#355). With less memory: samples_per_gpu = 4, which accumulates 2.
Updates     20 epochs of 3,862 = 77,240. Objects are pasted until epoch 15, then the natural scenes take over.
Expected    Not yet measured on four GPUs. Reference: 64.9 mAP / 69.6 NDS (mmdetection3d projects/BEVFusion).
Memory      4 samples take 8.8 to 9.3 GB in float32 (mmdetection3d#3103), so about 18 GB for 8 (computed: 17 GiB).
Then        configs/bevfusion.py --cfg-options load_from=work_dirs/bevfusion_lidar_4x4090/epoch_20.pth

    tools/dist_train.sh configs/bevfusion_lidar_4x4090.py 4
"""

_base_ = './bevfusion_lidar.py'

num_gpus = 4
samples_per_gpu = 8

train_dataloader = dict(batch_size=samples_per_gpu)
