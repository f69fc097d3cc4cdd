"""Images for tests: a tiny one made from Debian's static busybox, no registry needed."""

import io
import shutil
import tarfile

import docker

TINY = "herdweb-test/tiny"
# The same with directories that everybody may write to.
ROOMY = "herdweb-test/roomy"


def engine_client() -> docker.DockerClient:
    return docker.from_env()


def make_tiny(client: docker.DockerClient) -> str:
    """Import busybox with a link for each of its programs; a second on any machine."""
    if not client.images.list(TINY):
        client.api.import_image_from_data(tiny_tar(), repository=TINY)
    return TINY


def make_roomy(client: docker.DockerClient) -> str:
    """An image in whose own files an agent that is not root can install something."""
    if not client.images.list(ROOMY):
        client.api.import_image_from_data(tiny_tar("usr", "usr/local", "var", "var/tmp"), repository=ROOMY)
    return ROOMY


def tiny_tar(*open_folders: str) -> bytes:
    busybox = shutil.which("busybox") or "/bin/busybox"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(busybox, "bin/busybox", filter=executable)
        for name in PROGRAMS:
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        for folder in ("tmp", "etc", "proc", "sys", "dev", "run", *open_folders):
            entry = tarfile.TarInfo(folder)
            # The engine gives a memory file system the mode of the directory below it.
            everybody = folder in ("tmp", *open_folders)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if everybody else 0o755
            tar.addfile(entry)
    return buffer.getvalue()


def executable(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.mode, info.uid, info.gid = 0o755, 0, 0
    return info


PROGRAMS = """
sh ash cat echo id ls grep sed awk head tail seq sleep sha256sum printf env true false kill touch mkdir rm
mount df dd tr yes wc uname od cut sort date stat find tee ps nc wget ip hostname mknod
""".split()
