"""Step execution: rates, CPU per step, cost of depth, of isolation, of starting, time-outs and memory.

    python -m benchmarks.bench_sandbox [--steps 1500] [--repeats 3]

Prints a Markdown table. The workload is seeded and knows its own state: about 53 % small arithmetic and functions,
10 % loops of 1-10 ms, 20 % sympy, 7 % numpy, 10 % failing steps. "CPU" is that of everything: this process, the
server, the zygotes and every step. Ratios compare two things run in turn, so that a busy machine disturbs both.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import resource
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from rstar.protocols import ExecutionVerdict, RunRequest
from rstar.sandbox import SandboxConfig, SandboxPool

ALL_LAYERS = (
    "seccomp", "gate", "landlock", "mount", "pid", "user", "network", "ipc", "uts", "uid", "rlimits",
)  # fmt: skip
TREES_AT_ONCE = 8
BRANCHING = 4


@dataclass
class Writer:
    """Writes plausible next steps; remembers which names its history has defined."""

    random: random.Random
    kinds: tuple[str, ...] = (
        ("light",) * 53 + ("loop",) * 10 + ("sympy",) * 20 + ("numpy",) * 7 + ("fails",) * 10
    )
    names: list[str] = field(default_factory=list)

    def fork(self) -> Writer:
        """For a child: same names, a stream of its own."""
        return Writer(random.Random(self.random.random()), self.kinds, list(self.names))

    def step(self) -> str:
        """The code of one step that uses a known name and defines a new one."""
        chance = self.random
        a, b = chance.randint(2, 60), chance.randint(2, 60)
        known = chance.choice(self.names) if self.names else str(a)
        new = f"v{len(self.names)}_{chance.randint(0, 10**6)}"
        kind = chance.choice(self.kinds)
        comment = (
            f"# Step {len(self.names) + 1}: we combine {known} with {a} and {b} to get the next quantity\n"
        )
        if kind == "fails":
            return comment + chance.choice(
                (
                    f"{new} = {known} / 0",
                    f"print(undefined_{a})",
                    f"{new} = [1, 2][{a}]",
                    f"{new} = int('x{b}')",
                )
            )
        body = chance.choice(_TEMPLATES[kind]).replace("NEW", new).replace("OLD", known)
        self.names.append(new)
        return comment + body.replace("A", str(a)).replace("B", str(b))


_TEMPLATES = {
    "light": (
        "NEW = OLD * A + B\nprint(NEW)",
        "NEW = (OLD + A) % 1009",
        "def f_NEW(x):\n    return x * A - B\nNEW = f_NEW(OLD) % 10007\nprint(NEW)",
        "import math\nNEW = math.gcd(int(OLD), A * B) + B",
        "items_NEW = [i * A for i in range(B)]\nNEW = sum(items_NEW) + OLD % 97\nprint(f'total: {NEW}')",
        "from fractions import Fraction\nNEW = int(Fraction(A, B) * 60) + OLD % 7\nprint(NEW)",
        "prices = {'x': A, 'y': B}\nNEW = sum(prices.values()) + OLD % 13\nfor k, v in prices.items():\n    print(k, v)",
    ),
    "loop": (
        "NEW = 0\nfor i in range(A * 1000):\n    NEW += i % B\nprint(NEW)",
        "NEW = sum(1 for i in range(2, A * 60) if all(i % j for j in range(2, int(i**0.5) + 1)))\nprint(NEW)",
    ),
    "sympy": (
        "from sympy import symbols, solve\nx = symbols('x')\nNEW = len(solve(x**2 - A*x - B, x)) + OLD % 5\nprint(NEW)",
        "import sympy as sp\ny = sp.symbols('y')\nNEW = int(sp.expand((y + A)**3).subs(y, B)) % 1000\nprint(NEW)",
        "from sympy import Rational, sqrt, simplify\nr_NEW = simplify(sqrt(A) * sqrt(B) + Rational(A, B))\nprint(r_NEW)\nNEW = A",
        "from sympy import factorint\nNEW = max(factorint(A * B + 1))\nprint(NEW)",
        "from sympy import symbols, Eq, solve\np, q = symbols('p q')\ns = solve([Eq(p + q, A), Eq(p - 2*q, B)], [p, q])\nprint(s)\nNEW = A + B",
    ),
    "numpy": (
        "import numpy as np\nNEW = int(np.arange(A).sum()) + B\nprint(NEW)",
        "import numpy as np\nm = np.array([[A, 1.0], [2.0, B]])\nNEW = int(np.linalg.det(m))\nprint(NEW)",
    ),
}  # fmt: skip


@dataclass
class Tally:
    """What a run did."""

    steps: int = 0
    replayed: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    step_cpu_s: float = 0.0
    verdicts: dict[str, int] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        return self.steps / self.wall_s

    @property
    def cpu_ms(self) -> float:
        return 1000 * self.cpu_s / self.steps

    @property
    def step_cpu_ms(self) -> float:
        return 1000 * self.step_cpu_s / self.steps


Workload = Callable[[SandboxPool, "Tally", int], Awaitable[None]]


async def _step(pool: SandboxPool, tally: Tally, request: RunRequest) -> bool:
    result = await pool.run(request)
    tally.steps += 1
    tally.replayed += result.replayed_steps
    tally.step_cpu_s += result.cpu_s
    tally.verdicts[result.verdict] = tally.verdicts.get(result.verdict, 0) + 1
    return result.verdict is ExecutionVerdict.OK


def trajectories(*, in_place: bool, kinds: tuple[str, ...] | None = None, depth: int = 10) -> Workload:
    """Chains of `depth` steps; a step that fails is tried once more with other code."""

    async def one(pool: SandboxPool, tally: Tally, seed: int) -> None:
        writer = Writer(random.Random(seed), *(() if kinds is None else (kinds,)))
        history: tuple[str, ...] = ()
        for _ in range(depth):
            code = writer.step()
            request = RunRequest(code=code, history=history, group=f"t{seed}", last_child=in_place)
            if await _step(pool, tally, request):
                history = (*history, code)
        pool.release(f"t{seed}")

    return one


def trees(*, in_place: bool, depth: int = 6, expansions: int = 8) -> Workload:
    """Trees that expand a random open node into four children at once, `expansions` times."""

    async def one(pool: SandboxPool, tally: Tally, seed: int) -> None:
        chance = random.Random(seed)
        nodes: list[tuple[tuple[str, ...], Writer]] = [((), Writer(chance))]
        for _ in range(expansions):
            history, writer = nodes.pop(chance.randrange(len(nodes)))
            writers = [writer.fork() for _ in range(BRANCHING)]
            codes = [child.step() for child in writers]
            requests = [
                RunRequest(
                    code=code,
                    history=history,
                    group=f"t{seed}",
                    keep_state=len(history) + 1 < depth,
                    last_child=in_place,
                )
                for code in codes
            ]
            ended = await asyncio.gather(*(_step(pool, tally, request) for request in requests))
            nodes += [
                ((*history, code), child)
                for code, child, ok in zip(codes, writers, ended, strict=True)
                if ok and len(history) + 1 < depth
            ]
            if not nodes:
                break
        pool.release(f"t{seed}")

    return one


def _cpu_of_everything(pool: SandboxPool) -> float:
    """CPU seconds of this process and of all that the pool's servers started and start."""
    total = time.process_time()
    tick = os.sysconf("SC_CLK_TCK")
    servers = [shard.pid for shard in pool._shards]
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        if int(entry) in servers:
            total += sum(map(int, fields[11:15])) / tick
        elif int(fields[1]) in servers:
            total += sum(map(int, fields[11:13])) / tick
    return total


async def measure(pool: SandboxPool, workload: Workload, steps: int, seed: int) -> Tally:
    """Run trees of a workload, `TREES_AT_ONCE` at a time, until `steps` are done."""
    tally = Tally()
    seeds = iter(range(seed, seed + 10**6))

    async def lane() -> None:
        while tally.steps < steps:
            await workload(pool, tally, next(seeds))

    cpu, begin = _cpu_of_everything(pool), time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(TREES_AT_ONCE)))
    tally.wall_s = time.perf_counter() - begin
    await asyncio.sleep(0.2)  # let the last interpreters end
    tally.cpu_s = _cpu_of_everything(pool) - cpu
    return tally


async def depth_ratio(pool: SandboxPool, rounds: int = 150) -> tuple[float, float, float]:
    """(CPU ms of a step at depth 1, at depth 16, ratio), by siblings of two states taken in turn."""
    chain = tuple(
        f"value_{i} = {i}\ndef f_{i}(x):\n    return x + value_{i}\nprint(f_{i}(1))" for i in range(16)
    )
    for depth in range(16):
        await pool.run(RunRequest(code=chain[depth], history=chain[:depth], group="depth"))
    spent: dict[int, list[float]] = {1: [], 16: []}
    for block in range(10):
        for depth in (1, 16) if block % 2 else (16, 1):
            cpu = _cpu_of_everything(pool)
            for i in range(rounds):
                code = f"y = {i} + {block} * 1000\nprint(y)"
                request = RunRequest(code=code, history=chain[:depth], group="depth", keep_state=False)
                assert (await pool.run(request)).replayed_steps == 0
            await asyncio.sleep(0.1)
            spent[depth].append(1000 * (_cpu_of_everything(pool) - cpu) / rounds)
    pool.release("depth")
    shallow, deep = statistics.median(spent[1]), statistics.median(spent[16])
    return shallow, deep, deep / shallow


async def memory_of_snapshots(pool: SandboxPool, code: str, count: int = 300) -> float:
    """MB of this machine's available memory that one paused interpreter takes after `code`."""
    before = _available_bytes()
    requests = [RunRequest(code=f"{code}\nn = {i}", group="memory") for i in range(count)]
    await asyncio.gather(*map(pool.run, requests))
    taken = before - _available_bytes()
    pool.release("memory")
    await asyncio.sleep(0.5)
    return taken / count / 1e6


def _available_bytes() -> int:
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))


async def time_out_excess(pool: SandboxPool) -> float:
    """Worst seconds of CPU beyond the limit among four endless loops at once."""
    requests = [RunRequest(code=f"while True: x = {i}", group="slow") for i in range(4)]
    results = await asyncio.gather(*map(pool.run, requests))
    assert all(result.verdict is ExecutionVerdict.TIMEOUT for result in results)
    return max(result.cpu_s for result in results) - pool.config.cpu_s


def _row(name: str, tallies: list[Tally]) -> str:
    rate, cpu, inside = (
        statistics.median(getattr(tally, kind) for tally in tallies)
        for kind in ("rate", "cpu_ms", "step_cpu_ms")
    )
    best = max(tally.rate for tally in tallies)
    replayed = sum(tally.replayed for tally in tallies) / sum(tally.steps for tally in tallies)
    return f"| {name} | {rate:.0f} | {best:.0f} | {cpu:.2f} | {inside:.2f} | {2000 / cpu:.0f} | {100 * replayed:.1f} % |"


WORKLOADS: dict[str, Workload] = {
    "trajectories, a fork per step": trajectories(in_place=False),
    "trajectories, in place": trajectories(in_place=True),
    "trees, a fork per step": trees(in_place=False),
    "trees, last child in place": trees(in_place=True),
    "light steps only, trajectories, a fork per step": trajectories(in_place=False, kinds=("light",)),
    "light steps only, trajectories, in place": trajectories(in_place=True, kinds=("light",)),
}


async def main(steps: int, repeats: int) -> None:
    """Measure and print."""
    config = SandboxConfig(num_shards=1, cpu_s=1.0, wall_s=3.0, allow_unsafe=True)
    begin = time.perf_counter()
    isolated = SandboxPool(config)
    report = await isolated.start()
    start_s = time.perf_counter() - begin
    bare = SandboxPool(config, _without=ALL_LAYERS)
    await bare.start()
    print(
        f"cores: {os.cpu_count()}, load before: {os.getloadavg()[0]:.1f}; every layer held: {report.complete}\n"
    )
    print(
        "| workload | steps/s | best | CPU ms/step | of it inside the step | steps/s that 2 idle cores allow | replayed |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, workload in WORKLOADS.items():
        print(
            _row(name, [await measure(isolated, workload, steps, 1000 * i) for i in range(repeats)]),
            flush=True,
        )
    ratios = []
    workload = trajectories(in_place=False)
    for i in range(2 * repeats):
        pair = (isolated, bare) if i % 2 else (bare, isolated)
        cpu = {pool: (await measure(pool, workload, steps // 2, 5000 + 1000 * i)).cpu_ms for pool in pair}
        ratios.append(cpu[isolated] / cpu[bare])
    shallow, deep, ratio = await depth_ratio(isolated)
    excess = await time_out_excess(isolated)
    light = await memory_of_snapshots(isolated, "x = 1\nprint(x)")
    heavy = await memory_of_snapshots(
        isolated, "from sympy import *\nx = symbols('x')\nprint(solve(x**2 - 3*x + 1, x))"
    )
    print("\n| measure | value |\n|---|---|")
    print(f"| start, every layer probed | {start_s:.2f} s |")
    print(f"| CPU of a step at depth 1 / at depth 16 | {shallow:.2f} / {deep:.2f} ms: ratio {ratio:.2f} |")
    print(
        f"| CPU with every layer over none | {statistics.median(ratios):.3f} (from {min(ratios):.3f} to {max(ratios):.3f}) |"
    )
    print(f"| time-out, CPU beyond the limit | {excess:.3f} s |")
    print(f"| one paused interpreter, light step / after sympy | {light:.2f} / {heavy:.2f} MB |")
    print(
        f"| peak memory of this process | {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB |"
    )
    await asyncio.gather(isolated.aclose(), bare.aclose())


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore", RuntimeWarning)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1500, help="steps per workload and repeat")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.steps, arguments.repeats))
