"""Builds a container image with nothing but busybox, which podman and containerd can load."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

_BUSYBOX = Path("/bin/busybox")
_TOOLS = ("sh", "sleep", "true", "cat", "echo")


def save_image(archive: Path, name: str, *command: str) -> None:
    """Writes an archive as `docker save` does, with one layer.

    Args:
        archive: The file to write.
        name: The image's name with its tag, such as `localhost/busy:1`.
        command: The default command.
    """
    layer = _layer()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": list(command), "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = {"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}
    files = {
        "layer.tar": layer,
        "config.json": json.dumps(config).encode(),
        "manifest.json": json.dumps([manifest]).encode(),
    }
    with tarfile.open(archive, "w") as tar:
        for path, content in files.items():
            _add(tar, path, content)


def _layer() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder in ("bin", "tmp", "etc", "proc", "sys", "dev"):
            info = tarfile.TarInfo(folder)
            info.type = tarfile.DIRTYPE
            info.mode = 0o755
            tar.addfile(info)
        _add(tar, "bin/busybox", _BUSYBOX.read_bytes(), 0o755)
        for tool in _TOOLS:
            info = tarfile.TarInfo(f"bin/{tool}")
            info.type = tarfile.SYMTYPE
            info.linkname = "busybox"
            tar.addfile(info)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, path: str, content: bytes, mode: int = 0o644) -> None:
    info = tarfile.TarInfo(path)
    info.size = len(content)
    info.mode = mode
    tar.addfile(info, io.BytesIO(content))
