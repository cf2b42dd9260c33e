import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.ports import PortTaken, refuse_taken

PROJECT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def taken_port() -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    yield listener.getsockname()[1]
    listener.close()


def test_a_free_port_is_accepted_twice(taken_port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = listener.getsockname()[1]

    refuse_taken(free)
    refuse_taken(free)


def test_a_taken_port_is_refused_with_the_way_out(taken_port: int) -> None:
    with pytest.raises(PortTaken, match=rf"Port {taken_port} .* make run PORT="):
        refuse_taken(taken_port)


def test_make_run_refuses_a_taken_port_before_it_does_anything_else(taken_port: int) -> None:
    run = subprocess.run(
        ["bin/run"],
        cwd=PROJECT,
        env={**os.environ, "PORT": str(taken_port), "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )

    assert run.returncode != 0
    assert f"Port {taken_port} of 127.0.0.1 cannot be used" in run.stderr
    assert run.stdout == ""
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("port", ["eight thousand", "", "99999999"], ids=["a word", "nothing", "too large"])
def test_a_port_that_is_none_is_refused_without_a_traceback(port: str) -> None:
    checked = subprocess.run(
        [sys.executable, "config/ports.py", port], cwd=PROJECT, capture_output=True, text=True, check=False
    )

    assert checked.returncode == 1
    assert "PORT=" in checked.stderr
    assert "Traceback" not in checked.stderr
