"""OPTIMIZATION blocks of OpenPCDet, one for each way to train."""

ONE_CYCLE = dict(
    BATCH_SIZE_PER_GPU=4,
    NUM_EPOCHS=8,
    OPTIMIZER='adam_onecycle',
    LR=0.003,
    WEIGHT_DECAY=0.01,
    MOMENTUM=0.9,
    MOMS=[0.95, 0.85],
    PCT_START=0.4,
    DIV_FACTOR=10,
    DECAY_STEP_LIST=[35, 45],
    LR_DECAY=0.1,
    LR_CLIP=1e-7,
    LR_WARMUP=False,
    WARMUP_EPOCH=1,
    GRAD_NORM_CLIP=10,
)
COSINE = {**ONE_CYCLE, 'OPTIMIZER': 'adam_cosineanneal', 'WARMUP_ITER': 7}
ADAM = {**ONE_CYCLE, 'OPTIMIZER': 'adam', 'DECAY_STEP_LIST': [3, 5]}
SGD = {**ADAM, 'OPTIMIZER': 'sgd', 'MOMENTUM': 0.8}
