import base64
import io
from pathlib import Path

import pytest
from PIL import Image
from written_runs import write_picture

from bevfusion_plugin.visualization.report.pictures import MAX_PICTURES, MAX_WIDTH, chosen_pictures, data_address, written_token


def decoded(address):
    kind, _, content = address.removeprefix('data:').partition(';base64,')
    content = base64.b64decode(content)
    return kind, content, Image.open(io.BytesIO(content))


def test_a_small_picture_is_taken_as_it_is(tmp_path):
    path = write_picture(tmp_path / 'a.png')
    kind, content, _ = decoded(data_address(path, 100_000))
    assert kind == 'image/png' and content == path.read_bytes()


def test_a_large_picture_is_scaled_until_it_fits(tmp_path):
    path = write_picture(tmp_path / 'a.png', 1200, 900, noise=True)
    kind, content, image = decoded(data_address(path, 100_000))
    assert kind == 'image/jpeg' and len(content) <= 100_000 < path.stat().st_size
    assert image.width < 1200 and image.width / image.height == pytest.approx(4 / 3, rel=0.02)


def test_a_wide_picture_is_brought_to_the_width_of_a_page(tmp_path):
    path = write_picture(tmp_path / 'a.png', MAX_WIDTH + 400, 10)
    assert decoded(data_address(path, 10_000_000))[2].width == MAX_WIDTH


def test_a_file_that_is_no_picture_is_named(tmp_path):
    path = tmp_path / 'a.png'
    path.write_text('hello')
    with pytest.raises(ValueError, match='a.png is no picture .*remove it'):
        data_address(path, 1000)


def test_a_picture_tells_its_samples_token(tmp_path):
    assert written_token(write_picture(tmp_path / 'a.png', token='c0ffee')) == 'c0ffee'
    assert written_token(write_picture(tmp_path / 'b.png')) == ''


def test_a_page_takes_so_many_pictures_shared_by_the_runs():
    many = [Path(f'{number}.png') for number in range(100)]
    assert [len(chosen) for chosen in chosen_pictures([many])] == [MAX_PICTURES]
    assert [len(chosen) for chosen in chosen_pictures([many, many[:3]])] == [MAX_PICTURES // 2, 3]
    assert chosen_pictures([[], many[:2]]) == [[], many[:2]]
