"""How the numbers of a weight are laid out in three code bases, and how they are here.

Letters: O output and I input channels, kx, ky, kz sizes of a kernel along the axes of the lidar frame.

- Sparse kernels: here (O, kx, ky, kz, I), KRSC; spconv 1 and mmcv have (kx, ky, kz, I, O), OpenPCDet counts z, y, x.
- OpenPCDet's BEV maps are (y, x), here they are (x, y): every dense kernel behind the encoder is transposed.
- mit's boxes are (w, l, h, -yaw - pi/2) in our terms: the last layers that predict size and yaw are permuted.

Source: as in ``names``; mit's boxes: mit-han-lab/bevfusion#163, #322.
"""

from __future__ import annotations

import re

from torch import Tensor

from bevfusion_plugin.ops.sparse.conv import weight_to_krsc

BEV_MODULES = ('fusion_layer.', 'pts_backbone.', 'pts_neck.', 'bbox_head.shared_conv.', 'bbox_head.heatmap_head.')


def rearrange(tensor: Tensor, name: str, source: str, shape: tuple[int, ...], version: int | None = None) -> tuple[Tensor, list[str]]:
    """``tensor`` in our layout, and what was done to it.

    Args:
        tensor: As in the checkpoint.
        name: Our name of it.
        source: One of ``SOURCES``.
        shape: Shape in the model.
        version: Version of its module in the checkpoint's metadata, see ``weight_to_krsc``.

    Returns:
        The tensor, contiguous; one that fits no known layout as it is.
    """
    if len(shape) == 5 and tensor.dim() == 5:
        return _sparse_kernel(tensor, source, shape, version)
    if source == 'openpcdet' and tensor.dim() == 4 and name.startswith(BEV_MODULES):
        return _bev_kernel(tensor, shape)
    return _box_layer(tensor, name) if source == 'mit' else (tensor, [])


def _sparse_kernel(tensor: Tensor, source: str, shape: tuple[int, ...], version: int | None) -> tuple[Tensor, list[str]]:
    by_zyx = source == 'openpcdet'
    axes = 'kz, ky, kx' if by_zyx else 'kx, ky, kz'
    wanted = (shape[0], *shape[3:0:-1], shape[4]) if by_zyx else shape
    krsc = weight_to_krsc(tensor, wanted, version)
    how = [] if krsc is tensor else [f'sparse kernel ({axes}, I, O) -> (O, {axes}, I)']
    if by_zyx and tuple(krsc.shape) == wanted:
        return krsc.permute(0, 3, 2, 1, 4).contiguous(), [*how, 'sparse kernel z, y, x -> x, y, z']
    return krsc, how


def _bev_kernel(tensor: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, list[str]]:
    """A dense kernel over a (y, x) map; (I, O, 1, 1) of a transposed convolution of stride 1 also becomes (O, I, 1, 1).

    The shape tells that one, so I and O must differ, as they do in BEVFusion (128 and 256).
    """
    how = []
    if tuple(tensor.shape) != shape and tuple(tensor.shape) == (shape[1], shape[0], 1, 1):
        tensor, how = tensor.transpose(0, 1), ['transposed 1 x 1 convolution -> convolution']
    if tensor.shape[2:] == (1, 1):
        return tensor.contiguous(), how
    return tensor.transpose(2, 3).contiguous(), [*how, 'BEV kernel y, x -> x, y']


def _box_layer(tensor: Tensor, name: str) -> tuple[Tensor, list[str]]:
    """The last layer of mit's size and yaw branch: (w, l, h) -> (l, w, h), and r = -pi/2 - yaw as (sin, cos) -> that of yaw.

    sin(yaw) = sin(-pi/2 - r) = -cos(r) and cos(yaw) = -sin(r): the two rows change places and signs.
    """
    branch = re.fullmatch(r'bbox_head\.prediction_heads\.\d+\.(dim|rot)\.\d+\.(?:weight|bias)', name)
    if branch is None:
        return tensor, []
    if branch[1] == 'dim':
        return tensor[[1, 0, 2]], ['size w, l, h -> l, w, h']
    return -tensor[[1, 0]], ['yaw r -> -pi/2 - r']
