"""A git server as companies have it: https with a certificate of its own, and a password."""

import base64
import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import mkdtemp

import docker

USER, TOKEN = "robot", "s3cret-t0ken-of-the-tests"


class Handler(BaseHTTPRequestHandler):
    """Git's own http-backend behind basic authentication."""

    protocol_version = "HTTP/1.0"
    root: Path
    redirect = ""
    hold: threading.Event | None = None

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def answer(self) -> None:
        if self.hold:
            self.hold.wait(60)
        if self.redirect:
            self.send_response(302)
            self.send_header("Location", self.redirect + self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        wanted = "Basic " + base64.b64encode(f"{USER}:{TOKEN}".encode()).decode()
        if self.headers.get("Authorization") != wanted:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.answer_of_git()

    def answer_of_git(self) -> None:
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        done = subprocess.run(
            ["git", "-c", "http.receivepack=true", "-c", "safe.directory=*", "http-backend"],
            input=body,
            capture_output=True,
            check=True,
            env={
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": str(self.root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "REMOTE_USER": USER,
                "REMOTE_ADDR": "127.0.0.1",
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "GIT_CONFIG_COUNT": "2",
                "GIT_CONFIG_KEY_0": "http.receivepack",
                "GIT_CONFIG_VALUE_0": "true",
                "GIT_CONFIG_KEY_1": "safe.directory",
                "GIT_CONFIG_VALUE_1": "*",
            },
        ).stdout
        head, _, content = done.partition(b"\r\n\r\n")
        fields = [line.split(": ", 1) for line in head.decode().split("\r\n")]
        status = next((value for name, value in fields if name == "Status"), "200 OK")
        self.send_response(int(status.split()[0]))
        for name, value in fields:
            if name not in ("Status", "Content-Length"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Silence."""


def bridge_address(client: docker.DockerClient) -> str:
    """Where containers on the bridge find this host."""
    config = client.networks.get("bridge").attrs["IPAM"]["Config"][0]
    return str(config.get("Gateway") or config["Subnet"].rsplit(".", 1)[0] + ".1")


def certificate(folder: Path, address: str) -> Path:
    """A certificate that vouches for itself, with its key in the same file."""
    made = folder / "server.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-subj", f"/CN={folder.name}", "-addext", f"subjectAltName=IP:{address}",
         "-keyout", str(folder / "key.pem"), "-out", str(made)],
        check=True, capture_output=True,
    )  # fmt: skip
    return made


@contextmanager
def serving(
    client: docker.DockerClient, root: Path, redirect: str = "", hold: threading.Event | None = None
) -> Iterator[tuple[str, Path]]:
    """Serve the repositories below `root`; yields the address, and the file that vouches for it.

    It answers once `hold` is set, if there is one.
    """
    address, folder = bridge_address(client), Path(mkdtemp(dir=root))
    made = certificate(folder, address)
    kind = type("Served", (Handler,), {"root": root, "redirect": redirect, "hold": hold})
    server = ThreadingHTTPServer((address, 0), kind)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made, folder / "key.pem")
    # The handshake is the handler's: a client that dies before it must not keep everybody waiting.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"https://{address}:{server.server_port}", made
    server.shutdown()
    server.server_close()
    thread.join()
