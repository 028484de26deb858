"""tools/create_synthetic_nuscenes.py that stands still in its second keyframe until there is a file.

python held_generator.py GO_FILE [arguments of the tool]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tool_loading import load_tool

from bevfusion_plugin.synthetic_nuscenes import writer

WRITE = writer._write_keyframe


def held(job: writer._Job) -> writer.Measured:
    """Write a keyframe; for the second one wait first."""
    if (job.scene, job.sample) == (0, 1):
        print('stands still', flush=True)
        while not Path(sys.argv[1]).exists():
            time.sleep(0.05)
    return WRITE(job)


if __name__ == '__main__':
    writer._write_keyframe = held
    sys.exit(load_tool('create_synthetic_nuscenes').main(sys.argv[2:]))
