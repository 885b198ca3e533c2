"""What the server costs beside calling the library, and 200 requests at once.

    python -m benchmarks.bench_server [--requests 300] [--at-once 200]

Prints Markdown. The server is a process of its own, as in production; the client is httpx2 with one open connection.
The policy is scripted (`ChainWorld`), so a search takes milliseconds and is the same on both sides: with a seed of its own
for each question, the library and the server are asked in turn, and answer alike, which is checked. Overhead is the
difference of a pair; of the load that other programs put on the machine, both halves of a pair get the same.
CPU time is that of the process with the solver, without the sandbox's: the measure for a machine that is busy.

At once: so many different questions are asked at the same moment, each over a connection of its own, with OpenAI's client;
beside it `Solver.solve_many` of the same questions. An answer is wrong if it is not the reference, which the policy, that
makes no mistakes here, always finds.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time

import httpx2
import openai

from benchmarks.tables import markdown
from rstar import SearchConfig, Solver
from rstar.backends.scripted import ChainWorld
from rstar.sandbox import SandboxConfig
from rstar.server.config import ServerConfig
from rstar.server.running import serve
from rstar.steps import boxed

WORLD = ChainWorld(num_operations=2, slip=0.0, crash=0.0, nonsense=0.0)
SEARCH = SearchConfig(num_rollouts=1, num_candidates=1)
WARM_UP = 20


def solver() -> Solver:
    """The same on both sides."""
    return Solver(WORLD.policy(), search=SEARCH, sandbox=SandboxConfig(num_shards=1))


def percentile(values: list[float], share: float) -> float:
    """The value below which that share lies."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def cpu_s(client: httpx2.Client, url: str) -> float:
    """CPU time of the server's process."""
    lines = client.get(f"{url}/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("process_cpu_seconds_total"))


def overhead(url: str, num_requests: int) -> list[list[str]]:
    """Rows of milliseconds for library, server, and their difference; the last column is CPU time."""
    library_cpu_s = 0.0
    library: list[float] = []
    server_cpu_s = 0.0
    server: list[float] = []
    problems = WORLD.problems(WARM_UP + num_requests)
    with solver() as own, httpx2.Client(timeout=60) as client:
        for seed, problem in enumerate(problems):
            if seed == WARM_UP:
                server_cpu_s = cpu_s(client, url)
            cpu, began = time.process_time(), time.perf_counter()
            found = own.solve(problem.question, seed=seed)
            middle, used = time.perf_counter(), time.process_time() - cpu
            message = {"role": "user", "content": problem.question}
            body = {"model": "rstar", "messages": [message], "seed": seed}
            told = client.post(f"{url}/v1/chat/completions", json=body).json()
            ended = time.perf_counter()
            assert told["choices"][0]["rstar"]["answer"] == found.answer == problem.answer
            if seed >= WARM_UP:
                library_cpu_s += used
                library.append(1000 * (middle - began))
                server.append(1000 * (ended - middle))
        server_cpu_s = cpu_s(client, url) - server_cpu_s
    cpu_ms = [1000 * seconds / num_requests for seconds in (library_cpu_s, server_cpu_s)]
    both = zip(server, library, strict=True)
    difference = [with_server - without for with_server, without in both]
    rows = [
        ("library", library, cpu_ms[0]), ("server", server, cpu_ms[1]), ("difference", difference, cpu_ms[1] - cpu_ms[0]),
    ]  # fmt: skip
    return [
        [name, *(f"{x:.2f}" for x in (statistics.median(ms), percentile(ms, 0.1), percentile(ms, 0.9), cpu))]
        for name, ms, cpu in rows
    ]


def at_once(url: str, count: int) -> list[list[str]]:
    """Rows of seconds, lost and wrong answers for server and library."""
    problems = WORLD.problems(count, seed=1)

    async def ask() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:

            async def one(question: str) -> str | None:
                found = await client.chat.completions.create(
                    model="rstar", messages=[{"role": "user", "content": question}]
                )
                return boxed(found.choices[0].message.content or "")

            answers = await asyncio.gather(
                *(one(problem.question) for problem in problems), return_exceptions=True
            )
        return [None if isinstance(answer, BaseException) else answer for answer in answers]

    began = time.perf_counter()
    answers = asyncio.run(ask())
    rows = [row("server", time.perf_counter() - began, answers, [problem.answer for problem in problems])]
    with solver().open() as own:
        began = time.perf_counter()
        found = own.solve_many([problem.question for problem in problems], progress=False)
        seconds = time.perf_counter() - began
    return [*rows, row("library", seconds, [one.answer for one in found], [one.answer for one in problems])]


def row(name: str, seconds: float, answers: list[str | None], right: list[str]) -> list[str]:
    """One line of the second table."""
    lost = sum(answer is None for answer in answers)
    wrong = sum(answer not in (None, expected) for answer, expected in zip(answers, right, strict=True))
    return [name, f"{seconds:.2f}", f"{len(answers) / seconds:.0f}", str(lost), str(wrong)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--at-once", type=int, default=200)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(solver(), ServerConfig(port=0), lambda url: print(url, flush=True))
        return
    command = [sys.executable, "-m", "benchmarks.bench_server", "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        while httpx2.get(f"{url}/health").status_code != 200:
            time.sleep(0.1)
        rows = overhead(url, arguments.requests)
        print(markdown("One request at a time, ms", ["", "median", "10 %", "90 %", "CPU, mean"], rows))
        rows = at_once(url, arguments.at_once)
        header = ["", "s", "per s", "lost", "wrong"]
        print(markdown(f"{arguments.at_once} at once", header, rows))
        process.terminate()


if __name__ == "__main__":
    main()
