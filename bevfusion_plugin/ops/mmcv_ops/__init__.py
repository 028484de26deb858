"""The operators of ``mmcv.ops`` that 3D detection needs, in plain torch, for an mmcv that has no compiled ones."""
