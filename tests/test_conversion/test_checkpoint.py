import json
import math
import pickle
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from foreign_checkpoints import mit_checkpoint, pcdet_checkpoint, small_weights

from bevfusion_plugin.conversion.checkpoint import convert, rearrange
from bevfusion_plugin.conversion.file import read_state_dict, write_checkpoint
from bevfusion_plugin.conversion.names import our_name
from bevfusion_plugin.ops.sparse.conv import SubMConv3d
from bevfusion_plugin.ops.sparse.tensor import SparseTensor

MANIFESTS = ('manifest_lidar', 'manifest_lidar_cam')
SPARSE = 'pts_middle_encoder.conv_out.0.weight'
AS_IS = dict(mmdet3d=dict, mit=mit_checkpoint, openpcdet=pcdet_checkpoint)


def spconv1(weights):
    """As spconv 1 and mmcv store them."""
    return {key: value.permute(1, 2, 3, 4, 0).contiguous() if value.dim() == 5 else value for key, value in weights.items()}


def assert_all_equal(result, weights):
    assert result.is_complete, result.table()
    assert sorted(result.tensors) == sorted(weights)
    for name, value in weights.items():
        assert result.tensors[name].dtype == value.dtype
        assert torch.equal(result.tensors[name], value), name


@pytest.mark.parametrize('manifest', MANIFESTS)
@pytest.mark.parametrize('source', AS_IS)
def test_every_tensor_comes_back_from_the_other_code_base(source, manifest):
    weights = small_weights(manifest)
    assert_all_equal(convert(AS_IS[source](weights), source, weights), weights)


@pytest.mark.parametrize('manifest', MANIFESTS)
def test_both_layouts_of_mmdet3d_are_recognised_without_metadata(manifest):
    weights = small_weights(manifest)
    old = convert(spconv1(weights), 'mmdet3d', weights)
    assert_all_equal(old, weights)
    sparse = [name for name, value in weights.items() if value.dim() == 5]
    assert list(old.reshaped) == sparse
    assert set(old.reshaped.values()) == {'sparse kernel (kx, ky, kz, I, O) -> (O, kx, ky, kz, I)'}
    assert convert(weights, 'mmdet3d', weights).reshaped == {}


def test_openpcdet_with_spconv_1_is_recognised():
    weights = small_weights('manifest_lidar')
    old = spconv1(pcdet_checkpoint(weights))  # (kz, ky, kx, I, O)
    result = convert(old, 'openpcdet', weights)
    assert_all_equal(result, weights)
    assert result.reshaped[SPARSE] == 'sparse kernel (kz, ky, kx, I, O) -> (O, kz, ky, kx, I); sparse kernel z, y, x -> x, y, z'


def test_a_kernel_of_five_equal_sizes_is_told_by_the_metadata():
    weights = {'pts_middle_encoder.conv_input.0.weight': torch.arange(243.0).reshape(3, 3, 3, 3, 3)}
    old = OrderedDict(spconv1(weights))
    assert not torch.equal(*convert(old, 'mmdet3d', weights).tensors.values(), *weights.values())
    old._metadata = {'pts_middle_encoder.conv_input.0': dict(version=1)}
    assert_all_equal(convert(old, 'mmdet3d', weights), weights)


def test_openpcdet_may_have_a_transposed_convolution_of_stride_1_in_its_neck():
    weights = small_weights('manifest_lidar')
    other = pcdet_checkpoint(weights)
    key = 'backbone_2d.deblocks.0.0.weight'
    other[key] = other[key].transpose(0, 1).contiguous()
    result = convert(other, 'openpcdet', weights)
    assert_all_equal(result, weights)
    assert result.reshaped['pts_neck.deblocks.0.0.weight'] == 'transposed 1 x 1 convolution -> convolution'


@pytest.mark.parametrize(
    'source, theirs, ours',
    [
        ('mmdet3d', 'bbox_head.decoder.0.norms.0.bias', 'bbox_head.decoder.0.norms.0.bias'),
        (
            'mit',
            'encoders.camera.backbone.stages.0.blocks.0.attn.w_msa.relative_position_bias_table',
            'img_backbone.stages.0.blocks.0.attn.w_msa.relative_position_bias_table',
        ),
        (
            'mit',
            'encoders.lidar.backbone.encoder_layers.encoder_layer1.0.conv1.weight',
            'pts_middle_encoder.encoder_layers.encoder_layer1.0.conv1.weight',
        ),
        ('mit', 'heads.object.decoder.0.multihead_attn.in_proj_weight', 'bbox_head.decoder.0.cross_attn.attn.in_proj_weight'),
        ('mit', 'heads.object.decoder.0.linear2.bias', 'bbox_head.decoder.0.ffn.layers.1.bias'),
        ('mit', 'heads.map.classifier.0.weight', None),
        ('openpcdet', 'backbone_3d.conv1.1.bn2.weight', 'pts_middle_encoder.encoder_layers.encoder_layer1.1.bn2.weight'),
        ('openpcdet', 'backbone_3d.conv2.0.0.weight', 'pts_middle_encoder.encoder_layers.encoder_layer1.2.0.weight'),
        ('openpcdet', 'backbone_3d.conv4.2.conv1.weight', 'pts_middle_encoder.encoder_layers.encoder_layer4.1.conv1.weight'),
        ('openpcdet', 'backbone_2d.blocks.1.16.weight', 'pts_backbone.blocks.1.15.weight'),
        ('openpcdet', 'dense_head.prediction_head.heatmap.0.1.running_var', 'bbox_head.prediction_heads.0.heatmap.0.bn.running_var'),
        ('openpcdet', 'dense_head.prediction_head.heatmap.1.bias', 'bbox_head.prediction_heads.0.heatmap.1.bias'),
        ('openpcdet', 'dense_head.decoder.self_attn.out_proj.bias', 'bbox_head.decoder.0.self_attn.attn.out_proj.bias'),
        ('openpcdet', 'roi_head.shared_fc_layer.0.weight', None),
    ],
)
def test_a_key_of_another_code_base_has_our_name(source, theirs, ours):
    assert our_name(theirs, source) == ours


def test_what_has_no_place_is_named():
    weights = small_weights('manifest_lidar')
    other = mit_checkpoint(weights)
    del other['decoder.neck.deblocks.1.0.weight']
    other['heads.map.classifier.0.weight'] = torch.zeros(3)
    other['heads.object.class_encoding.bias'] = torch.zeros(5)
    other['heads.object.another.bias'] = torch.zeros(5)
    result = convert(other, 'mit', weights)
    assert result.missing == ['pts_neck.deblocks.1.0.weight']
    assert result.unexpected == ['heads.map.classifier.0.weight', 'heads.object.another.bias']
    assert result.wrong_shape == {'bbox_head.class_encoding.bias': ([5], [16])}
    assert set(result.tensors) == set(weights) - {'pts_neck.deblocks.1.0.weight', 'bbox_head.class_encoding.bias'}
    assert not result.is_complete


def test_openpcdets_count_of_iterations_is_no_weight():
    weights = small_weights('manifest_lidar')
    result = convert(pcdet_checkpoint(weights), 'openpcdet', weights)
    assert result.ignored == ['global_step']


def test_the_table_counts_each_part_and_lists_what_is_wrong():
    weights = small_weights('manifest_lidar')
    other = mit_checkpoint(weights)
    other.update({f'heads.map.{i}': torch.zeros(1) for i in range(10)})
    del other['heads.object.shared_conv.bias']
    table = convert(other, 'mit', weights).table()
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines() if line.split()[-1].isdigit()}
    heads = sum(key.startswith('bbox_head.') for key in weights)
    assert rows['bbox_head'] == [str(heads - 1), '4', '1', '0', '0']
    assert rows['heads'] == ['0', '0', '0', '10', '0']
    assert rows['in'] == ['all', str(len(weights) - 1), str(4 + 21), '1', '10', '0']
    assert 'missing:\n  bbox_head.shared_conv.bias' in table
    assert 'heads.map.7\n  ... and 2 more; --json lists all' in table
    assert 'reshaped, 2 tensors: yaw r -> -pi/2 - r' in table
    assert 'half their height too high' in table


def test_the_report_is_json():
    weights = small_weights('manifest_lidar')
    report = json.loads(json.dumps(convert(mit_checkpoint(weights), 'mit', weights).to_dict()))
    assert set(report) == {'source', 'matched', 'missing', 'unexpected', 'reshaped', 'wrong_shape', 'ignored', 'notes'}
    assert len(report['matched']) == len(weights)


@pytest.mark.parametrize(
    'source, other, mend',
    [
        ('mit', pcdet_checkpoint, 'look like those of openpcdet: use --from openpcdet'),
        ('openpcdet', dict, 'look like those of mmdet3d: use --from mmdet3d'),
    ],
)
def test_a_checkpoint_of_another_source_is_refused_with_the_right_one(source, other, mend):
    weights = small_weights('manifest_lidar')
    with pytest.raises(ValueError, match=mend):
        convert(other(weights), source, weights)


def test_an_unknown_format_is_refused_with_its_keys():
    weights = {f'backbone.layer{i}.weight': torch.zeros(1) for i in range(3)}
    with pytest.raises(ValueError, match=r'its keys are backbone.layer0.\* \(1\), .*only BEVFusion checkpoints of mmdet3d, mit'):
        convert(weights, 'mit', {})


# ---- what the rearranged numbers mean


def test_a_transposed_kernel_sees_the_transposed_map_alike():
    theirs, image = torch.randn(4, 3, 3, 3), torch.randn(1, 3, 7, 9)  # (y, x)
    ours, how = rearrange(theirs, 'fusion_layer.0.weight', 'openpcdet', (4, 3, 3, 3))
    torch.testing.assert_close(
        F.conv2d(image.transpose(2, 3), ours, stride=2, padding=1), F.conv2d(image, theirs, stride=2, padding=1).transpose(2, 3)
    )
    assert how == ['BEV kernel y, x -> x, y']


def test_a_transposed_convolution_of_the_neck_sees_the_transposed_map_alike():
    theirs, image = torch.randn(3, 4, 2, 2), torch.randn(1, 3, 5, 6)
    ours, _ = rearrange(theirs, 'pts_neck.deblocks.1.0.weight', 'openpcdet', (3, 4, 2, 2))
    torch.testing.assert_close(
        F.conv_transpose2d(image.transpose(2, 3), ours, stride=2), F.conv_transpose2d(image, theirs, stride=2).transpose(2, 3)
    )


def test_kernels_over_camera_images_are_left_alone():
    theirs = torch.randn(4, 3, 3, 3)
    ours, how = rearrange(theirs, 'img_neck.fpn_convs.0.conv.weight', 'openpcdet', (4, 3, 3, 3))
    assert ours is theirs and how == []


def test_a_sparse_kernel_of_openpcdet_sees_the_same_neighbours():
    theirs = torch.randn(2, 3, 3, 3, 4)  # (O, kz, ky, kx, I)
    volume = torch.randn(1, 4, 5, 6, 7)  # (1, I, z, y, x)
    expected = F.conv3d(volume, theirs.permute(0, 4, 1, 2, 3), padding=1)[0]  # (O, z, y, x)
    conv = SubMConv3d(4, 2, 3, bias=False)
    ours, _ = rearrange(theirs, 'pts_middle_encoder.conv_input.0.weight', 'openpcdet', tuple(conv.weight.shape))
    conv.weight.data.copy_(ours)
    z, y, x = (axis.flatten() for axis in torch.meshgrid(*map(torch.arange, (5, 6, 7)), indexing='ij'))
    sites = torch.stack([torch.zeros_like(x), x, y, z], 1).int()
    out = conv(SparseTensor(volume[0, :, z, y, x].t().contiguous(), sites, (7, 6, 5), 1))
    _, x, y, z = out.indices.long().t()
    torch.testing.assert_close(out.features, expected[:, z, y, x].t())


def test_mits_boxes_become_ours():
    """A box of mit is (w, l, h) and r with yaw = -pi/2 - r."""
    features = torch.randn(6, 50)
    dim, rot = torch.randn(3, 6, 1), torch.randn(2, 6, 1)
    name = 'bbox_head.prediction_heads.0.{}.1.weight'
    width, length, height = F.conv1d(features[None], dim)[0].exp()
    sine, cosine = F.conv1d(features[None], rot)[0]
    yaw = -math.pi / 2 - torch.atan2(sine, cosine)
    ours = {
        kind: F.conv1d(features[None], rearrange(layer, name.format(kind), 'mit', tuple(layer.shape))[0])[0]
        for kind, layer in (('dim', dim), ('rot', rot))
    }
    torch.testing.assert_close(ours['dim'].exp(), torch.stack([length, width, height]))
    turned = torch.atan2(*ours['rot']) - yaw
    torch.testing.assert_close(torch.stack([turned.sin(), turned.cos()]), torch.tensor([[0.0], [1.0]]).expand(2, 50), atol=1e-5, rtol=0)


# ---- files


def test_weights_are_read_from_every_usual_place(tmp_path):
    weights = {'fuser.0.weight': torch.ones(2)}
    for index, content in enumerate(
        [
            weights,
            dict(state_dict=weights, meta={}),
            dict(model_state=weights, epoch=6),
            dict(model={'module.fuser.0.weight': torch.ones(2)}),
        ]
    ):
        torch.save(content, tmp_path / f'{index}.pth')
        found = read_state_dict(tmp_path / f'{index}.pth')
        assert list(found) == ['fuser.0.weight'] and torch.equal(found['fuser.0.weight'], torch.ones(2))


class Harmful:
    def __reduce__(self):
        return print, ('code ran',)


def test_a_file_with_code_in_it_is_not_run(tmp_path, capsys):
    torch.save(dict(state_dict={'fuser.0.weight': torch.ones(2)}, meta=Harmful()), tmp_path / 'in.pth')
    with pytest.raises(ValueError, match=r'in.pth cannot be loaded safely \(weights_only=True\)'):
        read_state_dict(tmp_path / 'in.pth')
    assert capsys.readouterr().out == ''


@pytest.mark.parametrize('content', [b'', b'no checkpoint', pickle.dumps({'a': 1})], ids=['empty', 'text', 'pickle'])
def test_a_file_that_is_no_checkpoint_is_refused(content, tmp_path):
    (tmp_path / 'in.pth').write_bytes(content)
    with pytest.raises(ValueError, match='in.pth'):
        read_state_dict(tmp_path / 'in.pth')


def test_a_file_without_weights_is_refused_with_what_it_has(tmp_path):
    torch.save(dict(optimizer={}, epoch=3), tmp_path / 'in.pth')
    with pytest.raises(ValueError, match='holds no weights under state_dict, model_state, model; it has: optimizer, epoch'):
        read_state_dict(tmp_path / 'in.pth')


def test_what_is_written_tells_the_versions_of_its_modules_and_where_it_comes_from(tmp_path):
    write_checkpoint(tmp_path / 'out.pth', {'a.weight': torch.ones(2)}, {'a': dict(version=2)}, converted_from='mit')
    content = torch.load(tmp_path / 'out.pth', weights_only=True)
    assert content['meta']['converted_from'] == 'mit'
    assert read_state_dict(tmp_path / 'out.pth')._metadata == {'a': dict(version=2)}
