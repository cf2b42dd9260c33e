import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from config import supervisor
from tests.patience import wait_until

CHILD_WITH_A_CHILD = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"


def _alive(process_group: int) -> list[int]:
    """Return the processes of the group that still run; one that is dead but not yet collected does not."""
    return [
        process.pid
        for process in psutil.process_iter(["status"])
        if process.info["status"] != psutil.STATUS_ZOMBIE and _group_of(process.pid) == process_group
    ]


def _group_of(process_id: int) -> int | None:
    # Somebody else's process may end between being listed and being looked at.
    with suppress(ProcessLookupError):
        return os.getpgid(process_id)
    return None


def test_no_process_nor_its_children_outlive_the_site() -> None:
    with supervisor._running({"web": [sys.executable, "-c", CHILD_WITH_A_CHILD]}) as processes:
        group = processes["web"].pid
        wait_until(lambda: len(_alive(group)) == 2, "The start of a process and its child")

    wait_until(lambda: not _alive(group), "The end of both")


def test_a_process_that_ends_by_itself_is_named() -> None:
    with supervisor._running({"beat": [sys.executable, "-c", "raise SystemExit(3)"]}) as processes:
        processes["beat"].wait()

        with pytest.raises(supervisor.ChildFailed, match="The beat process ended by itself with code 3"):
            supervisor._refuse_ended(processes)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "terminate"])
def test_a_signal_stops_what_runs_and_a_second_one_does_not_break_the_stopping(number: signal.Signals) -> None:
    program = (
        "import signal, sys, time\n"
        "from config import supervisor\n"
        "for number in supervisor.STOP_SIGNALS: signal.signal(number, supervisor._ask_to_stop)\n"
        "try:\n"
        "    with supervisor._running({'web': [sys.executable, '-c', 'import time; time.sleep(60)']}) as processes:\n"
        "        print(processes['web'].pid, flush=True)\n"
        "        time.sleep(60)\n"
        "except supervisor.StopAsked:\n"
        "    print('stopped', flush=True)\n"
    )
    project = Path(__file__).resolve().parent.parent.parent
    with subprocess.Popen([sys.executable, "-c", program], cwd=project, stdout=subprocess.PIPE, text=True) as site:
        assert site.stdout is not None
        web = int(site.stdout.readline())

        site.send_signal(number)
        site.send_signal(number)
        said = site.stdout.read()

    assert said.endswith("stopped\n")
    assert site.returncode == 0
    assert not _alive(web)


def test_a_database_server_that_died_is_named_with_the_place_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(supervisor.ServerFailed, match=rf"{tmp_path}/server\.log"):
        supervisor._refuse_ended_server(tmp_path)


def test_the_failure_is_said_before_the_others_are_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    failed = supervisor.ChildFailed("The beat process ended by itself.")

    with pytest.raises(supervisor.ChildFailed), supervisor._running({}):
        raise failed

    assert capsys.readouterr().err == "The beat process ended by itself.\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can be asked for it")
def test_the_processes_end_even_when_the_program_that_started_them_was_killed() -> None:
    program = (
        "import sys, time\n"
        "from config import supervisor\n"
        "with supervisor._running({'web': [sys.executable, '-c', 'import time; time.sleep(60)']}) as processes:\n"
        "    print(processes['web'].pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    project = Path(__file__).resolve().parent.parent.parent
    with subprocess.Popen([sys.executable, "-c", program], cwd=project, stdout=subprocess.PIPE, text=True) as site:
        assert site.stdout is not None
        web = int(site.stdout.readline())

        site.kill()
        site.wait()

    wait_until(lambda: not _alive(web), "The end of what it had started")
