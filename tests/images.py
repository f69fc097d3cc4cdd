"""Images for tests: a tiny one made from Debian's static busybox, no registry needed."""

import io
import shutil
import tarfile

import docker

TINY = "herdweb-test/tiny"


def engine_client() -> docker.DockerClient:
    return docker.from_env()


def make_tiny(client: docker.DockerClient) -> str:
    """Import busybox with a link for each of its programs; a second on any machine."""
    if not client.images.list(TINY):
        client.api.import_image_from_data(tiny_tar(), repository=TINY)
    return TINY


def tiny_tar() -> bytes:
    busybox = shutil.which("busybox") or "/bin/busybox"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(busybox, "bin/busybox", filter=executable)
        for name in PROGRAMS:
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        for folder in ("tmp", "etc", "proc", "sys", "dev", "run"):
            entry = tarfile.TarInfo(folder)
            # The engine gives a memory file system the mode of the directory below it.
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            tar.addfile(entry)
    return buffer.getvalue()


def executable(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.mode, info.uid, info.gid = 0o755, 0, 0
    return info


PROGRAMS = """
sh ash cat echo id ls grep sed awk head tail seq sleep sha256sum printf env true false kill touch mkdir rm
mount df dd tr yes wc uname od cut sort date stat find tee ps nc wget ip hostname mknod
""".split()
