"""Serves one folder of static files on this machine, to its own pages only."""

import mimetypes
import shutil
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from avatar_gs.core.runs import PAGE

ADDRESS = "127.0.0.1"
"""Nothing outside this machine can connect."""
_TYPES = {".html": "text/html; charset=utf-8", ".txt": "text/plain; charset=utf-8", ".webp": "image/webp"}
_HEADERS = {
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}


def folder_server(folder: Path, port: int = 0) -> ThreadingHTTPServer:
    """A server of a folder, which listens; ``serve_forever`` answers.

    Args:
        folder: its files are served, and nothing outside it.
        port: 0 takes a free one (``server_port``).

    Raises:
        OSError: if the port is in use.
    """
    return _Server((ADDRESS, port), partial(_Handler, folder.resolve()))


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that breaks is no error of ours."""


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD.

    A page of another site may send requests here, also under a name of its own that leads to this machine (DNS
    rebinding): therefore Host and Origin must be this server's.
    """

    server_version, sys_version = "avatar_gs", ""
    timeout = 30

    def __init__(self, folder: Path, *arguments: Any) -> None:
        self.folder = folder
        super().__init__(*arguments)

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def log_message(self, *_: Any) -> None:
        """The terminal stays quiet."""

    def _answer(self, *, with_content: bool) -> None:
        if not self._is_own():
            self._refuse(HTTPStatus.FORBIDDEN, "This server answers its own pages only.")
            return
        path = self._file()
        if path is None:
            self._refuse(HTTPStatus.NOT_FOUND, f"{self.folder.name} has no such file; other runs are not served.")
            return
        try:
            file, size = path.open("rb"), path.stat().st_size
        except OSError:
            self._refuse(HTTPStatus.NOT_FOUND, f"{path.name} cannot be read.")
            return
        first, last = self._range(size)
        partly = (first, last) != (0, size - 1)
        with file, suppress(OSError):  # the browser may have left
            self.send_response(HTTPStatus.PARTIAL_CONTENT if partly else HTTPStatus.OK)
            self._send_headers(_TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0], last - first + 1)
            self.send_header("Accept-Ranges", "bytes")
            if partly:
                self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            self.end_headers()
            if with_content and partly:
                file.seek(first)
                self.wfile.write(file.read(last - first + 1))
            elif with_content:
                shutil.copyfileobj(file, self.wfile)

    def _is_own(self) -> bool:
        assert isinstance(self.server, ThreadingHTTPServer)
        own = {f"{host}:{self.server.server_port}" for host in (ADDRESS, "localhost")}
        origin = self.headers.get("Origin")
        return self.headers.get("Host") in own and (origin is None or origin in {f"http://{host}" for host in own})

    def _file(self) -> Path | None:
        """The file that is asked for; None if there is none in the folder, by its true place, or it is hidden."""
        try:
            parts = [part for part in unquote(urlsplit(self.path).path, errors="strict").split("/") if part]
            if any(part.startswith(".") or "\\" in part or "\0" in part for part in parts):
                return None
            path = self.folder.joinpath(*parts)
            path = path / PAGE if path.is_dir() else path
            true = path.resolve(strict=True)
        except (OSError, ValueError, RuntimeError):
            return None
        return true if true.is_file() and true.is_relative_to(self.folder) else None

    def _range(self, size: int) -> tuple[int, int]:
        """The first and the last byte of one range, which Safari needs for videos; else those of the whole file."""
        unit, _, wanted = self.headers.get("Range", "").partition("=")
        first, _, last = wanted.partition("-")
        if unit == "bytes" and first.isdecimal() and (not last or last.isdecimal()) and len(wanted) < 40:
            begin, end = int(first), min(int(last) if last else size - 1, size - 1)
            if begin <= end:
                return begin, end
        return 0, size - 1

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        content = why.encode()
        with suppress(OSError):
            self.send_response(status)
            self._send_headers(_TYPES[".txt"], len(content))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    def _send_headers(self, kind: str | None, length: int) -> None:
        headers = {"Content-Type": kind or "application/octet-stream", "Content-Length": str(length), **_HEADERS}
        for name, value in headers.items():
            self.send_header(name, value)
