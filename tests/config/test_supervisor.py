import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from config import supervisor

CHILD_WITH_A_CHILD = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"


def _is_alive(process_group: int) -> bool:
    """Tell whether a process of the group still runs; one that is dead but not yet collected does not."""
    return any(
        os.getpgid(process.pid) == process_group
        for process in psutil.process_iter(["status"])
        if process.info["status"] != psutil.STATUS_ZOMBIE and psutil.pid_exists(process.pid)
    )


def test_no_process_nor_its_children_outlive_the_site() -> None:
    with supervisor._running({"web": [sys.executable, "-c", CHILD_WITH_A_CHILD]}) as processes:
        group = processes["web"].pid
        time.sleep(0.5)
        alive_inside = _is_alive(group)

    time.sleep(0.2)

    assert alive_inside
    assert not _is_alive(group)


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
    assert not _is_alive(web)
