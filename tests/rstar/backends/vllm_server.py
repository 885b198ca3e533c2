"""A vLLM server process on the CPU, with the embedded base model or another one."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

BASE = Path(__file__).parents[3] / "rounds" / "base"
STARTS_TIMEOUT_S = 600
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}{{ message.content }}"
    "{% elif message.role == 'user' %}<|user|>\n{{ message.content }}\n<|assistant|>\n{% endif %}"
    "{% endfor %}"
)
"""The embedded model's bare prompt as a chat."""


_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """In the child, before it runs: no server outlives tests that were killed."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class VLLMServer:
    """One server, which can be killed and started again at the same address. Its output goes to a file in `folder`."""

    def __init__(self, folder: Path, *, model: Path = BASE, max_model_len: int = 512) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._log = folder / "vllm.log"
        template = folder / "bare.jinja"
        template.write_text(CHAT_TEMPLATE, encoding="utf-8")
        # On the CPU a prompt that is taken in chunks kills vLLM 0.32's engine, if its request has a seed.
        self._command = [
            sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model),
            "--served-model-name", "rstar-base", "--host", "127.0.0.1", "--port", str(self.port),
            "--dtype", "float32", "--max-model-len", str(max_model_len), "--enforce-eager", "--block-size", "32",
            "--kv-cache-memory-bytes", str(64 << 20), "--enable-prompt-tokens-details",
            "--chat-template", str(template), "--no-enable-chunked-prefill",
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Start the process; `wait` waits until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, start_new_session=True, preexec_fn=_die_with_parent,
                env={**os.environ, "TORCHDYNAMO_DISABLE": "1"},
            )  # fmt: skip

    def wait(self) -> None:
        """Until the server is healthy."""
        assert self._process is not None
        deadline = time.monotonic() + STARTS_TIMEOUT_S
        while time.monotonic() < deadline:
            assert self._process.poll() is None, self._log.read_text(errors="replace")[-4000:]
            with contextlib.suppress(OSError):
                urllib.request.urlopen(self.url.removesuffix("/v1") + "/health", timeout=5).close()
                return
            time.sleep(0.5)
        raise TimeoutError(self._log.read_text(errors="replace")[-4000:])

    def kill(self) -> None:
        """End the server and its engine processes at once."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def metric(self, name: str) -> float:
        """A value of the server's own Prometheus metrics, summed over labels."""
        with urllib.request.urlopen(self.url.removesuffix("/v1") + "/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.split("{")[0] == name)
