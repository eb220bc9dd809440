"""Jobs that share their imports: what they do, say and return is what they would by themselves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from conftest import REPOSITORY
from typer.testing import CliRunner

from cloakbench.cli.main import app
from cloakbench.running import forks
from cloakbench.running.benchmark import read_benchmark

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks are used on Linux only")

PLUGIN = """
import json, os, signal, sys, time
from pathlib import Path
said = {"arguments": sys.argv[1:], "folder": os.getcwd(), "process": os.getpid(),
        "given": os.environ.get("GIVEN"), "shared": "colorsys" in sys.modules}
Path(os.environ["SAID"]).write_text(json.dumps(said))
if os.environ.get("WAIT"):
    def stop(number, frame):
        print("stopped by", number)
        sys.exit(128 + number)
    signal.signal(signal.SIGTERM, stop)
    print("waiting", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[psutil.Popen]:
    """A process that serves forks and has loaded next to nothing, and its socket."""
    folder = tmp_path / "socket"
    folder.mkdir()
    serve = "from cloakbench.running import forks; forks.LIBRARIES = ('colorsys',); forks.main()"
    process = psutil.Popen(
        [sys.executable, "-P", "-c", serve, folder / "forks"],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY / "src")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "listening\n"
    process.socket = folder / "forks"
    yield process
    with suppress(psutil.NoSuchProcess):
        process.kill()
    process.wait()


@pytest.fixture
def command(server: psutil.Popen, tmp_path: Path) -> Callable[..., psutil.Popen]:
    """A function that starts `cloakbench` with a plug-in that writes down how it was called."""
    plugin = tmp_path / "plugin.py"
    plugin.write_text(PLUGIN)

    def begin(*arguments: str, **environment: str) -> psutil.Popen:
        given = os.environ | forks.THREADS | {"SAID": str(tmp_path / "said.json")}
        given |= {forks.SOCKET: str(server.socket), "PYTHONPATH": str(REPOSITORY / "src")}
        return psutil.Popen(
            [sys.executable, "-P", "-m", "cloakbench", f"--plugin={plugin}", *arguments],
            env=given | environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return begin


def said(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "said.json").read_text())
    return found


def test_a_job_has_its_own_arguments_folder_environment_and_output(command, tmp_path):
    job = command("methods", "noise", "--json", GIVEN="ä b")
    output, errors = job.communicate(timeout=120)
    assert json.loads(output)[0]["name"] == "noise"
    assert (job.returncode, errors) == (0, "")
    found = said(tmp_path)
    assert found["arguments"][1:] == ["methods", "noise", "--json"]
    assert (found["folder"], found["given"]) == (str(tmp_path), "ä b")
    assert found["process"] != job.pid
    assert found["shared"]


def test_errors_are_those_of_the_command_itself(command):
    job = command("methods", "nosuch")
    _, errors = job.communicate(timeout=120)
    assert job.returncode == 1
    assert errors.startswith("error: ")
    assert "nosuch" in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize("environment", [{forks.SOCKET: "/nowhere"}, {"OMP_NUM_THREADS": "2"}])
def test_a_job_runs_by_itself_where_no_fork_can_be_had(command, tmp_path, environment):
    job = command("methods", **environment)
    job.communicate(timeout=120)
    assert job.returncode == 0
    assert said(tmp_path)["process"] == job.pid


def waiting(job: psutil.Popen, folder: Path) -> psutil.Process:
    """The fork of a job that waits."""
    assert job.stdout.readline() == "waiting\n"
    return psutil.Process(said(folder)["process"])


def gone(process: psutil.Process) -> None:
    deadline = time.monotonic() + 10
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_signals_reach_the_job_which_can_still_save_its_work(command, tmp_path):
    job = command("methods", WAIT="1")
    fork = waiting(job, tmp_path)
    job.terminate()
    output, _ = job.communicate(timeout=30)
    assert output == f"stopped by {int(signal.SIGTERM)}\n"
    assert job.returncode == 128 + signal.SIGTERM
    gone(fork)


def test_a_job_whose_command_is_killed_does_not_go_on(command, tmp_path):
    job = command("methods", WAIT="1")
    fork = waiting(job, tmp_path)
    job.kill()
    gone(fork)


def test_a_job_that_is_killed_is_one_that_failed(command, tmp_path):
    job = command("methods", WAIT="1")
    waiting(job, tmp_path).kill()
    job.communicate(timeout=10)
    assert job.returncode == 128 + signal.SIGKILL


def test_jobs_end_when_the_process_that_serves_them_is_killed(command, server, tmp_path):
    job = command("methods", WAIT="1")
    fork = waiting(job, tmp_path)
    server.kill()
    _, errors = job.communicate(timeout=10)
    assert (job.returncode, errors.startswith("error: ")) == (1, True)
    gone(fork)
    assert command("methods").wait(timeout=120) == 0  # the next one runs by itself


def test_nothing_is_left_when_the_run_ends(server):
    server.stdin.close()
    server.wait(timeout=10)
    assert not server.socket.parent.exists()


def test_jobs_that_run_when_the_run_ends_are_finished(command, server, tmp_path):
    job = command("methods", WAIT="1")
    waiting(job, tmp_path)
    server.stdin.close()
    time.sleep(0.5)
    assert server.is_running()
    job.terminate()
    assert job.wait(timeout=10) == 128 + signal.SIGTERM
    server.wait(timeout=10)


def test_snakemake_serves_its_jobs_and_none_when_it_is_told_so(tmp_path):
    shutil.copy(REPOSITORY / "config.yaml", tmp_path)
    target = "results/mini/bundled/{}/data/job.json"
    people = {"person_000003": None, "person_000004": ""}
    assert [served(tmp_path, target.format(who), given) for who, given in people.items()] == [1, 0]
    logs = tmp_path / "results" / "logs" / "mini" / "bundled"
    own, alone = ((logs / who / "data.log").read_text().replace(who, "") for who in people)
    assert own == alone


def served(folder: Path, target: str, given: str | None) -> int:
    """How many processes served forks while Snakemake made a file."""
    environment = {k: v for k, v in os.environ.items() if k != forks.SOCKET}
    environment |= {"CUDA_VISIBLE_DEVICES": ""} | ({} if given is None else {forks.SOCKET: given})
    snakemake = Path(sys.executable).with_name("snakemake")
    found = set()
    command = [snakemake, "--snakefile", REPOSITORY / "Snakefile", "--cores", "1", target]
    with psutil.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while process.poll() is None:
            with suppress(psutil.Error):
                children = process.children()
                found |= {p.pid for p in children if "cloakbench.running.forks" in p.cmdline()}
            time.sleep(0.1)
    return len(found)


def test_all_libraries_are_there_and_start_no_thread():
    """One that has moved would be loaded by each job again; threads do not survive a fork."""
    check = "from cloakbench.running import forks; forks.load(); "
    check += "print(len(os.listdir('/proc/self/task')), {*forks.LIBRARIES} - {*sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", f"import os, sys; {check}"],
        env=os.environ | forks.THREADS | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "1 set()\n"


def test_nobody_serves_beside_a_gpu_that_no_tool_shows(monkeypatch):
    monkeypatch.delenv(forks.SOCKET, raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(subprocess, "Popen", pytest.fail)
    monkeypatch.setattr(os.path, "exists", lambda path: path == "/dev/kfd")
    forks.start()


@pytest.mark.parametrize("variable", [forks.SOCKET, "CUDA_VISIBLE_DEVICES"])
def test_nobody_serves_where_none_are_wanted_or_cuda_is_used(monkeypatch, variable):
    monkeypatch.delenv(forks.SOCKET, raising=False)
    monkeypatch.setattr(subprocess, "Popen", pytest.fail)
    monkeypatch.setenv(variable, "0")
    forks.start()


def test_jobs_run_by_themselves_where_the_server_cannot_listen(monkeypatch, tmp_path):
    deep = tmp_path / ("x" * 100)  # longer than a socket's name may be
    deep.mkdir()
    monkeypatch.setattr(forks.tempfile, "mkdtemp", lambda prefix: str(deep))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv(forks.SOCKET, raising=False)
    forks.start()
    assert forks.SOCKET not in os.environ
    assert not deep.exists()


def test_a_benchmark_is_of_a_job_that_succeeded(tmp_path):
    path = tmp_path / "deep" / "took.tsv"
    assert CliRunner().invoke(app, ["--benchmark", str(path), "methods"]).exit_code == 0
    took = read_benchmark(path)
    assert took is not None
    assert 0 < took.seconds < 60
    assert took.cpu_seconds > 0
    assert took.memory > 20
    failed = tmp_path / "failed.tsv"
    assert CliRunner().invoke(app, ["--benchmark", str(failed), "methods", "nosuch"]).exit_code
    assert not failed.exists()
