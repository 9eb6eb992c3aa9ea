"""The local page: this machine only, run folders only, live."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from situs.errors import RunError
from situs.report.serve import find_runs, make_server

Address = tuple[str, int]


@pytest.fixture(scope="module")
def address(report: Path) -> Iterator[Address]:
    """A server over the folder that the run is in."""
    server = make_server(report.parents[2], port=0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield ("127.0.0.1", server.server_address[1])
    server.shutdown()
    server.server_close()
    thread.join(5)


def ask(address: Address, path: str, host: str | None = None) -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection(*address, timeout=300)
    connection.request("GET", path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body, dict(answer.getheaders())


def test_it_listens_on_this_machine_only(address: Address) -> None:
    assert address[0] == "127.0.0.1"
    status, body, headers = ask(address, "/")
    assert status == 200
    assert "first" in body
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_a_name_that_only_resolves_here_is_refused(address: Address) -> None:
    for host in ("evil.example", "127.0.0.1:1.evil.example", "localhost.evil.example"):
        assert ask(address, "/", host=f"{host}:{address[1]}")[0] == 403
    assert ask(address, "/", host=f"localhost:{address[1]}")[0] == 200


def test_live_curves_and_the_report(address: Address, report: Path) -> None:
    (run,) = find_runs(report.parents[2])
    status, body, _ = ask(address, f"/run/{run.key}")
    assert status == 200
    assert f'data-source="/run/{run.key}/curves"' in body
    status, fragment, _ = ask(address, f"/run/{run.key}/curves")
    assert status == 200
    assert fragment.count("<svg") >= 2  # one a loss term
    assert "<html" not in fragment
    assert "<script" not in fragment
    before = report.stat().st_mtime_ns
    assert ask(address, f"/run/{run.key}/report")[1] == report.read_text(encoding="utf-8")
    assert report.stat().st_mtime_ns == before, "an up-to-date report was written again"


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd",
        "/run/../../etc/passwd",
        "/run/%2e%2e%2f%2e%2e%2fetc%2fpasswd/report",
        "/run/{key}/../../secret.txt",
        "/run/{key}/report/../../../secret.txt",
        "/run/{key}/config.yaml",
        "/run/first/report",
        "//etc/passwd",
    ],
)
def test_nothing_but_runs_can_be_read(address: Address, report: Path, path: str) -> None:
    (run,) = find_runs(report.parents[2])
    (report.parents[2] / "secret.txt").write_text("top secret")
    status, body, _ = ask(address, path.format(key=run.key))
    assert status == 404
    assert "top secret" not in body
    assert "root:" not in body


def test_links_are_not_followed_and_hidden_folders_not_searched(tmp_path: Path) -> None:
    for name in ("real", ".hidden", "outside/run"):
        (tmp_path / "root" / name if name != "outside/run" else tmp_path / name).mkdir(parents=True)
    for folder in (tmp_path / "root/real", tmp_path / "root/.hidden", tmp_path / "outside/run"):
        (folder / "run.json").write_text("{}")
    (tmp_path / "root" / "link").symlink_to(tmp_path / "outside")
    assert [served.path.name for served in find_runs(tmp_path / "root")] == ["real"]


def test_a_damaged_run_is_listed_with_its_error(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "run.json").write_text("{not json")
    server = make_server(tmp_path, port=0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    status, body, _ = ask(("127.0.0.1", server.server_address[1]), "/")
    server.shutdown()
    server.server_close()
    assert status == 200
    assert "bad" in body
    assert "run.json" in body


def test_a_missing_folder_and_a_taken_port_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a folder"):
        make_server(tmp_path / "absent")
    first = make_server(tmp_path, port=0)
    with pytest.raises(RunError, match="--port"):
        make_server(tmp_path, port=first.server_address[1])
    first.server_close()
