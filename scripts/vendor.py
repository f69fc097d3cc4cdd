"""Fetch the front-end packages that vendor.json pins, check them, and copy the files that are used.

Called by `make vendor`; needs npm. Nothing is fetched at run time: the copied files are committed.
"""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VENDOR = ROOT / "agents" / "static" / "agents" / "vendor"

MIT = """Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""


def main() -> None:
    """Vendor every package of vendor.json."""
    for package in json.loads((VENDOR / "vendor.json").read_text())["packages"]:
        with tempfile.TemporaryDirectory() as folder:
            copy_files(package, fetch(package, Path(folder)))


def fetch(package: dict[str, Any], folder: Path) -> Path:
    """Download and unpack a package; exits when its checksum is not the recorded one."""
    wanted = f"{package['name']}@{package['version']}"
    subprocess.run(["npm", "pack", wanted, "--silent"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    archive = next(folder.glob("*.tgz"))
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if f"sha512-{digest}" != package["integrity"]:
        sys.exit(f"{wanted}: expected {package['integrity']}, got sha512-{digest}. Nothing was copied.")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / "package"


def copy_files(package: dict[str, Any], source: Path) -> None:
    """Copy the files that are used, and the licence beside them."""
    declared = json.loads((source / "package.json").read_text())["license"]
    if declared != package["licence"]:
        sys.exit(f"{package['name']}: the licence is {declared}, not {package['licence']}.")
    for origin, target in package["files"].items():
        copy(source / origin, ROOT / target)
        print(f"{package['name']} {package['version']}: {target}")
    short = package["name"].strip("@").replace("/", "-")
    (VENDOR / f"{short}.LICENSE.txt").write_text(licence(package, source))


def copy(origin: Path, target: Path) -> None:
    """Copy one file; a comment that points to a source map which is not copied goes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if origin.suffix not in (".css", ".js"):
        shutil.copyfile(origin, target)
        return
    text = re.sub(r"(/\*|//)# sourceMappingURL=\S+( ?\*/)?\s*$", "", origin.read_text().rstrip())
    target.write_text(text.rstrip() + "\n")


def licence(package: dict[str, Any], source: Path) -> str:
    """The package's own licence file, or its copyright lines with the licence's text."""
    for name in ("LICENSE", "LICENSE.md", "LICENSE.txt"):
        if (source / name).exists():
            return (source / name).read_text()
    first = source / next(iter(package["files"]))
    lines = re.findall(r"^\s*\*\s*(Copyright .+)$", first.read_text()[:2000], re.MULTILINE)
    return "The MIT License (MIT)\n\n" + "\n".join(lines) + "\n\n" + MIT


if __name__ == "__main__":
    main()
