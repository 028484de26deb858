"""Pure tensor functions: voxelisation, BEV pooling, sparse 3D convolution."""
