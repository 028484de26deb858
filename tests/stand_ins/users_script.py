"""mmdet3d's own train script with the one line above its imports that an mmcv without compiled operators needs."""

from importlib.util import find_spec
from pathlib import Path


def mmdet3d_train_script(folder: Path) -> Path:
    """``tools/train.py`` of the installed mmdet3d, the line put in, written into ``folder``."""
    packaged = Path(find_spec('mmdet3d').origin).parent / '.mim' / 'tools' / 'train.py'
    script = folder / 'users_train.py'
    script.write_text(f'import bevfusion_plugin\n{packaged.read_text()}')
    return script
