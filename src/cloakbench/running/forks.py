"""Jobs of one run share their imports: each is a fork of a process that has loaded the libraries.

A job spends some ten seconds of the processor on importing torch, diffusers and transformers, and
many jobs spend less on their work. Under a process that has called `start`, `python -m cloakbench`
asks the server for a fork, hands over its arguments, folder, environment and open files, passes
signals on, and ends as the fork does. Where nobody serves, or cannot, the command runs as it is.
Modules of CloakBench are not loaded beforehand: a job's code is what is on the disk when it starts.

Linux only, and only without a GPU, since CUDA does not survive a fork.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from runpy import run_module
from types import FrameType
from typing import Any

CHANGES_NO_RESULT = True

SOCKET = "CLOAKBENCH_FORKS"
"""The environment variable that names the socket; empty where no fork is wanted."""

THREADS = {
    f"{library}_NUM_THREADS": "1"
    for library in ("OMP", "GOTO", "OPENBLAS", "MKL", "VECLIB", "NUMEXPR")
}
"""As Snakemake sets them for a job with one thread: libraries read them while they are loaded."""

LIBRARIES = (
    "torch._dynamo", "torchvision", "numpy", "scipy.stats", "scipy.ndimage", "pandas", "PIL.Image",
    "cv2", "dlib", "pillow_heif", "skimage.metrics", "brisque", "safetensors.torch", "typer.main",
    "pydantic.main", "yaml", "filelock", "tqdm", "peft",
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.models.unets.unet_2d_condition",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img",
    "diffusers.schedulers.scheduling_ddpm",
    "diffusers.schedulers.scheduling_dpmsolver_multistep",
    "transformers.models.clip.modeling_clip",
    "transformers.models.clip.tokenization_clip",
    "transformers.models.clip.image_processing_clip",
)  # fmt: skip
"""What is loaded beforehand, if it is installed."""

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


_servers: list[subprocess.Popen[bytes]] = []  # held until this process ends, and so do they


def start() -> None:
    """Serve forks to processes that inherit this one's environment, for as long as this one lives.

    Nobody serves where `SOCKET` is set already, or forks cannot be used.
    """
    if sys.platform != "linux" or SOCKET in os.environ or _has_gpu():
        return
    path = Path(tempfile.mkdtemp(prefix="cloakbench-")) / "forks"
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "cloakbench.running.forks", path],
        env=os.environ | THREADS | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.PIPE,  # its end tells the server that we are gone
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # what the terminal sends reaches a job once, from its command
    )
    assert process.stdout is not None
    if process.stdout.readline():  # it listens
        os.environ[SOCKET] = str(path)
        _servers.append(process)
    else:
        shutil.rmtree(path.parent, ignore_errors=True)


def _has_gpu() -> bool:
    """Whether jobs may find a GPU, also one that `nvidia-smi` does not show: AMD's, or WSL's."""
    from cloakbench.running.gpu import VISIBLE, visible_gpus

    devices = () if VISIBLE in os.environ else ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
    return bool(visible_gpus()) or any(map(os.path.exists, devices))


def run_forked(arguments: list[str]) -> int | None:
    """Let a fork run this command: its exit status, or None if there is no one to ask."""
    path = os.environ.get(SOCKET)
    if not path or any(os.environ.get(name, "1") != "1" for name in THREADS):
        return None
    job = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
    message = json.dumps(job).encode()
    with socket.socket(socket.AF_UNIX) as connection, connection.makefile() as answers:
        try:
            connection.connect(path)
            socket.send_fds(connection, [len(message).to_bytes(8, "big")], [0, 1, 2])
            connection.sendall(message)
            fork = int(answers.readline())
        except (OSError, ValueError):
            return None

        def pass_on(number: int, frame: FrameType | None) -> None:
            with suppress(ProcessLookupError):
                os.kill(fork, number)

        for number in PASSED_ON:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                signal.signal(number, pass_on)
        if status := answers.readline():
            return int(status)
        pass_on(signal.SIGKILL, None)
        print("error: the process that ran this job was killed. Run it again.", file=sys.stderr)
        return 1


class Server:
    """Forks itself for each connection, and tells it the fork's process and exit status.

    The connection is the life line of both: a fork whose command is gone is killed. It ends once
    its standard input has ended and no fork is left.
    """

    def __init__(self, path: Path) -> None:
        os.close(os.pidfd_open(os.getpid()))  # which some containers forbid
        self.path = path
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(128)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.selector.register(sys.stdin, selectors.EVENT_READ)
        self.running: dict[int, tuple[int, socket.socket]] = {}  # by descriptor of the process

    def serve(self) -> Mapping[str, Any] | None:
        """Returns in each fork the job to run, and None at the end."""
        while self.running or sys.stdin.fileno() in self.selector.get_map():
            for key, _ in self.selector.select():
                if self.selector.get_map().get(key.fd) != key:
                    continue  # settled by what came before it
                if key.fileobj is sys.stdin:
                    self._end()
                elif key.fileobj is self.listener:
                    if (job := self._fork()) is not None:
                        return job
                elif key.data:
                    os.kill(key.data, signal.SIGKILL)  # its command is gone
                    self.selector.unregister(key.fileobj)
                else:
                    self._answer(key.fd)
        return None

    def _fork(self) -> Mapping[str, Any] | None:
        connection, _ = self.listener.accept()
        with suppress(OSError, ValueError):
            head, files, _, _ = socket.recv_fds(connection, 8, 3)
            message = b""
            while len(message) < int.from_bytes(head, "big"):
                message += connection.recv(2**20) or b"!"  # no JSON any longer
            job: dict[str, Any] = json.loads(message)
            process = os.fork()
            if not process:
                for number, file in enumerate(files):
                    os.dup2(file, number)
                self._close(connection)
            for file in files:
                os.close(file)
            if not process:
                return job
            try:
                handle = os.pidfd_open(process)
            except OSError:
                os.kill(process, signal.SIGKILL)  # its command will run by itself
                os.waitpid(process, 0)
                raise
            self.running[handle] = process, connection
            self.selector.register(handle, selectors.EVENT_READ)
            self.selector.register(connection, selectors.EVENT_READ, process)
            connection.sendall(f"{process}\n".encode())
        return None

    def _end(self) -> None:
        """Take no more jobs; those that wait run by themselves."""
        self.selector.unregister(sys.stdin)
        self.selector.unregister(self.listener)
        self.listener.close()
        shutil.rmtree(self.path.parent, ignore_errors=True)

    def _close(self, own: socket.socket) -> None:
        """In a fork: a copy left open would hide from commands that the server is gone."""
        self.selector.close()
        self.listener.close()
        own.close()
        for handle, (_, connection) in self.running.items():
            os.close(handle)
            connection.close()

    def _answer(self, handle: int) -> None:
        process, connection = self.running.pop(handle)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        self.selector.unregister(handle)
        os.close(handle)
        with suppress(KeyError):
            self.selector.unregister(connection)
        with connection, suppress(OSError):
            connection.sendall(f"{status if status >= 0 else 128 - status}\n".encode())


def load() -> None:
    """Import what is installed of `LIBRARIES`."""
    for name in LIBRARIES:
        with suppress(ImportError):
            import_module(name)


def main() -> None:
    """Load the libraries, serve, and in each fork be the command."""
    server = Server(Path(sys.argv[1]))
    print("listening", flush=True)
    load()
    gc.collect()
    gc.freeze()  # a fork's search for garbage would copy all pages
    atexit.register(gc.unfreeze)  # libraries tell at the end of what was never freed
    if (job := server.serve()) is None:
        return
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environment"], **{SOCKET: ""})
    sys.argv[1:] = job["arguments"]
    tempfile.tempdir = None  # it may have a folder of its own
    run_module("cloakbench", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
