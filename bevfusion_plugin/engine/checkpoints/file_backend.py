"""How MMEngine writes our checkpoints: through a file backend of its own kind."""

from __future__ import annotations

from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from bevfusion_plugin.engine.checkpoints.whole_file import remove_whole, write_whole

WHOLE_FILES = 'bevfusion_plugin_whole_files'


@register_backend(WHOLE_FILES)
class WholeFileBackend(LocalBackend):
    """MMEngine's local files, but whole or not there, each with its manifest."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file, see :func:`write_whole`."""
        write_whole(filepath, obj)

    def remove(self, filepath: str | Path) -> None:
        """Remove a file and its manifest."""
        remove_whole(filepath)
