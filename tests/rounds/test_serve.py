"""`rstar serve` as people start it, with the embedded model, and every example of docs/server.md against it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rounds.cli import main
from rstar.steps import boxed
from tests.rstar.server.serving import chat, client, get, until

COMMAND = [sys.executable, "-m", "rounds.cli", "serve"]
QUICK = [
    "--set",
    "search.num_rollouts=2",
    "--set",
    "search.num_candidates=4",
    "--set",
    "engine.num_replicas=1",
]


@contextmanager
def started(*arguments: str, cwd: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command in a process of its own that is ready, and its address; ended by force if it still runs."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(
        [*COMMAND, "--port", "0", *QUICK, *arguments], cwd=cwd, env=environment, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    with process:
        try:
            assert process.stderr is not None
            lines: list[str] = []
            while "/v1" not in (line := process.stderr.readline()):
                assert line, "".join(lines)
                lines.append(line)
            url = re.findall(r"http://\S+?(?=/v1)", line)[0]
            until(lambda: get(f"{url}/health").status_code == 200, seconds=500)
            yield process, url
        finally:
            process.kill()


@pytest.mark.timeout(900)
def test_the_embedded_model_is_served_and_every_example_of_the_document_runs(
    tmp_path: Path, repository: Path
) -> None:
    document = (repository / "docs" / "server.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(python|bash)\n(.*?)```", document, re.DOTALL)
    with started(cwd=tmp_path) as (process, url):
        found = client(url).chat.completions.create(**chat("what is 12 * 34?", temperature=0.5))
        (choice,) = found.choices
        assert choice.model_extra is not None
        assert boxed(choice.message.content or "") == choice.model_extra["rstar"]["answer"] is not None

        def here(code: str) -> str:
            return code.replace("http://127.0.0.1:8000", url).replace(
                "rounds/base", str(repository / "rounds/base")
            )

        python = here("\n".join(code for language, code in blocks if language == "python"))
        ran = subprocess.run(
            [sys.executable, "-c", python], cwd=repository, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
        assert r"\boxed{" in ran.stdout
        for code in (code for language, code in blocks if language == "bash"):
            shown = subprocess.run(["bash", "-euc", here(code)], capture_output=True, text=True, check=True)
            assert '"error"' not in shown.stdout
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=250)
        assert (process.returncode, log) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policy", "no/such/model"], "no/such/model"),
        (["--strategy", "beam"], "strategy beam needs a preference model and there is none"),
        (["--set", "server.max_serches=2"], "server: unknown key max_serches; did you mean max_searches"),
        (["--set", "servers.port=2"], "unknown section servers"),
        (["--port", "99999"], "port is 99999; it must be in 0..65535"),
        (["--host", "203.0.113.7"], "cannot listen at 203.0.113.7 port 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_said_in_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["rstar", "serve", "--port", "0", *arguments])
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        with pytest.raises(SystemExit) as ended:
            main()
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
