"""``stage=view``: what its server answers, to whom, and how it ends."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from avatar_gs import cli
from avatar_gs.pages.serve import ADDRESS, folder_server
from tests.pages.conftest import MakeRun


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """A server of ``run``, next to which there are a secret and links to it."""
    run = tmp_path / "run"
    (run / "previews").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("secret")
    (run / "index.html").write_text("<p>page")
    (run / "previews" / "a b.png").write_bytes(b"0123456789")
    (run / ".lock").write_text("hidden")
    (run / "link.txt").symlink_to(tmp_path / "secret.txt")
    (run / "out").symlink_to(tmp_path, target_is_directory=True)
    (run / "inside.html").symlink_to(run / "index.html")
    server = folder_server(run)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def ask(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection(ADDRESS, port, timeout=20)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    found = answer.status, answer.read(), dict(answer.getheaders())
    connection.close()
    return found


@pytest.mark.parametrize("path", ["/", "/index.html", "/index.html?x=1", "/inside.html"])
def test_files_of_the_run_are_served(port: int, path: str) -> None:
    status, content, headers = ask(port, path)
    assert (status, content) == (200, b"<p>page")
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt", "/previews/../../secret.txt", "/%2e%2e/secret.txt", "/..%2fsecret.txt", "/..\\secret.txt",
        "//etc/passwd", "/link.txt", "/out/secret.txt", "/out/run/../secret.txt", "/.lock", "/previews", "/previews/",
        "/none.html", "/%00", "/%ff", "/" + "x" * 5000,
    ],
)  # fmt: skip
def test_nothing_else_is_served(port: int, path: str) -> None:
    status, content, _ = ask(port, path)
    assert status == 404
    assert b"secret" not in content.replace(b"secret.txt", b"")


def test_parts_of_files_and_heads(port: int) -> None:
    path = "/previews/a%20b.png"
    status, content, headers = ask(port, path, Range="bytes=2-4")
    assert (status, content, headers["Content-Range"]) == (206, b"234", "bytes 2-4/10")
    assert ask(port, path, Range="bytes=7-")[:2] == (206, b"789")
    for whole in ("bytes=50-60", "bytes=4-2", "bytes=-3", "bytes=1-2,4-5", "lines=1-2", "bytes=x-y"):
        assert ask(port, path, Range=whole)[:2] == (200, b"0123456789")
    status, content, headers = ask(port, path, "HEAD")
    assert (status, content, headers["Content-Length"]) == (200, b"", "10")
    assert ask(port, "/", "POST")[0] == 501


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1"},
        {"Host": "127.0.0.1:1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://localhost"},
    ],
)
def test_other_sites_are_refused(port: int, headers: dict[str, str]) -> None:
    status, content, _ = ask(port, "/index.html", **headers)
    assert status == 403 and b"page" not in content.replace(b"own pages", b"")


def test_own_names_are_answered(port: int) -> None:
    for host in ("127.0.0.1", "localhost"):
        assert ask(port, "/", Host=f"{host}:{port}", Origin=f"http://{host}:{port}")[0] == 200


def test_it_listens_to_this_machine_only(tmp_path: Path) -> None:
    with folder_server(tmp_path) as server:
        assert server.server_address[0] == "127.0.0.1"
        with pytest.raises(OSError):
            folder_server(tmp_path, server.server_port)


HEEDING_CTRL_C = """
import signal, sys
from avatar_gs import cli
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(cli.main(sys.argv[1:]))
"""
"""The command, also where tests run in the background of a shell, whose processes ignore Ctrl-C."""


def test_the_stage_prints_its_address_and_ends_with_ctrl_c(make_run: MakeRun, outputs: Path) -> None:
    make_run("anna")
    command = [sys.executable, "-c", HEEDING_CTRL_C, "stage=view", "name=anna"]
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[2])}
    with subprocess.Popen(
        command, cwd=outputs.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        assert line.startswith("outputs/anna is at http://127.0.0.1:"), process.stderr.read()
        port = int(line.split("/index.html")[0].rsplit(":", 1)[1])
        assert b"a man in red" in ask(port, "/index.html")[1]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert process.stdout.read() == "ended\n" and process.stderr.read() == ""


def test_mistakes_are_one_line(make_run: MakeRun, outputs: Path, monkeypatch, capsys) -> None:
    folder = make_run("anna")
    monkeypatch.chdir(outputs.parent)
    with socket.create_server((ADDRESS, 0)) as taken:
        assert cli.main(["stage=view", "name=anna", f"view.port={taken.getsockname()[1]}"]) == 1
    assert "is in use: give another, or view.port=0" in capsys.readouterr().err
    (folder / "index.html").unlink()
    assert cli.main(["stage=view", "name=anna"]) == 1
    assert "has no page yet: give stage=export first" in capsys.readouterr().err
    assert cli.main(["stage=view", "name=nobody"]) == 1
    assert "is no run" in capsys.readouterr().err
