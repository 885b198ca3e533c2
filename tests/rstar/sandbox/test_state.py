"""State: a step sees what its ancestors left, and nothing of anyone else."""

from __future__ import annotations

import asyncio

import pytest

from rstar.protocols import ExecutionVerdict, RunRequest, Sandbox
from rstar.sandbox import SandboxConfig, SandboxPool
from tests.rstar.sandbox.conftest import Program

OK, ERROR = ExecutionVerdict.OK, ExecutionVerdict.ERROR


def test_pool_is_a_sandbox(pool: SandboxPool) -> None:
    assert isinstance(pool, Sandbox)


def test_a_step_sees_the_state_of_its_history(run: Program) -> None:
    assert run("x = 41").verdict is OK
    result = run("x = 41", "x += 1\nprint(x)")
    assert (result.stdout, result.error, result.replayed_steps) == ("42\n", "", 0)


def test_only_this_steps_output_is_reported(run: Program) -> None:
    run("print('first')")
    assert run("print('first')", "print('second')").stdout == "second\n"


def test_unknown_history_is_replayed_without_its_output(run: Program) -> None:
    result = run("x = 1\nprint('a')", "x += 1\nprint('b')", "print(x)")
    assert (result.stdout, result.replayed_steps) == ("2\n", 2)


TWO_STEP_CASES = {
    "function with a global counter": (
        "count = 0\ndef hit():\n    global count\n    count += 1\nhit()",
        "hit()\nprint(count)",
        "2",
    ),
    "lambda follows its global": ("n = 2\nf = lambda x: x * n", "n = 3\nprint(f(10))", "30"),
    "class and instance": ("class A:\n    k = 1\na = A()", "A.k = 5\nprint(a.k)", "5"),
    "generator half used": ("g = iter(range(5))\nnext(g)", "print(next(g), list(g))", "1 [2, 3, 4]"),
    "decimal precision": (
        "from decimal import *\ngetcontext().prec = 5",
        "print(Decimal(1) / Decimal(3))",
        "0.33333",
    ),
    "random state": ("import random\nrandom.seed(7)", "print(random.randrange(10**6))", "339563"),
    "recursion limit": (
        "import sys\nsys.setrecursionlimit(12345)",
        "import sys\nprint(sys.getrecursionlimit())",
        "12345",
    ),
    "lru_cache stays filled": (
        "from functools import lru_cache\ncalls = []\n@lru_cache\ndef f(x):\n    calls.append(x)\n    return x\nf(1)",
        "f(1)\nprint(calls)",
        "[1]",
    ),
    "numpy random state": (
        "import numpy as np\nnp.random.seed(3)",
        "print(np.random.randint(10**6))",
        "71530",
    ),
    "sympy symbols": (
        "from sympy import *\nx = symbols('x')\ne = (x + 1)**2",
        "print(expand(e))",
        "x**2 + 2*x + 1",
    ),
    "match object": (
        "import re\nm = re.match(r'(\\d+)-(\\d+)', '12-34')",
        "print(m.group(2), m.re.pattern)",
        "34 (\\d+)-(\\d+)",
    ),
    "import stays": ("import math as m", "print(m.comb(5, 2))", "10"),
    "closure": (
        "def make():\n    total = 0\n    def add(v):\n        nonlocal total\n        total += v\n        return total\n    return add\nadd = make()\nadd(2)",
        "print(add(3))",
        "5",
    ),
    "redirected stdout comes back": (
        "import sys, io\nold = sys.stdout\nsys.stdout = io.StringIO()\nprint('gone')\nsys.stdout = old",
        "print('here')",
        "here",
    ),
    "dataclass": (
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int = 1\np = P(4)",
        "print(p, p == P(4))",
        "P(x=4) True",
    ),
}


@pytest.mark.parametrize("case", TWO_STEP_CASES)
@pytest.mark.parametrize("last_child", [False, True])
def test_two_steps_are_one_program(run: Program, case: str, last_child: bool) -> None:
    first, second, expected = TWO_STEP_CASES[case]
    assert run(first).verdict is OK
    result = run(first, second, last_child=last_child)
    assert (result.stdout.strip(), result.error) == (expected, "")


LEAKS = {
    "variable": ("secret = 5", "print(secret)", "NameError"),
    "import": ("import math", "print(math.pi)", "NameError"),
    "monkey-patched builtin": (
        "import builtins\nbuiltins.len = lambda _: 99",
        "print(len('abc'))\nraise KeyError",
        "3\n",
    ),
    "monkey-patched module": (
        "import math\nmath.sqrt = None",
        "import math\nprint(math.sqrt(4))\nraise KeyError",
        "2.0\n",
    ),
    "recursion limit": (
        "import sys\nsys.setrecursionlimit(50)",
        "import sys\nprint(sys.getrecursionlimit())\nraise KeyError",
        "1000\n",
    ),
    "decimal context": (
        "import decimal\ndecimal.getcontext().prec = 2",
        "import decimal\nprint(decimal.getcontext().prec)\nraise KeyError",
        "28\n",
    ),
    "environment": (
        "import os\nos.environ['A'] = '1'",
        "import os\nprint(dict(os.environ))\nraise KeyError",
        "{}\n",
    ),
}


@pytest.mark.parametrize("case", LEAKS)
@pytest.mark.parametrize("fails", [False, True], ids=["ok", "error"])
def test_fault_1_siblings_are_isolated_also_after_an_error(run: Program, case: str, fails: bool) -> None:
    leak, look, expected = LEAKS[case]
    leaked = run("base = 1", leak + ("\n1 / 0" if fails else ""))
    assert leaked.verdict is (ERROR if fails else OK)
    looked = run("base = 1", look)
    assert looked.verdict is ERROR
    assert expected in (looked.stdout + looked.error)


def test_fault_1_problems_are_isolated(pool: SandboxPool) -> None:
    async def scenario() -> tuple[str, str]:
        await pool.run(RunRequest(code="secret = 5", group="one"))
        other = await pool.run(RunRequest(code="print(secret)", group="two"))
        same = await pool.run(RunRequest(code="print(secret)", group="one"))
        for name in ("one", "two"):
            pool.release(name)
        return other.error, same.error

    other, same = asyncio.run(scenario())
    assert other == same == "NameError: name 'secret' is not defined"


def test_a_failed_step_leaves_its_parents_state_alone(run: Program) -> None:
    run("values = [1]")
    assert run("values = [1]", "values.append(2)\nraise ValueError('no')").error == "ValueError: no"
    assert run("values = [1]", "print(values)").stdout == "[1]\n"


def test_many_siblings_at_once_see_one_parent_state(pool: SandboxPool, group: str) -> None:
    async def scenario() -> list[str]:
        await pool.run(RunRequest(code="x = 10", group=group))
        requests = [
            RunRequest(code=f"x += {i}\nprint(x)", history=("x = 10",), group=group) for i in range(40)
        ]
        return [result.stdout for result in await asyncio.gather(*map(pool.run, requests))]

    assert asyncio.run(scenario()) == [f"{10 + i}\n" for i in range(40)]


def test_equal_requests_at_once_share_one_execution(pool: SandboxPool, group: str) -> None:
    async def scenario() -> set[str]:
        code = "import time\ntime.sleep(0.1)\nprint(time.perf_counter_ns())"
        request = RunRequest(code=code, group=group)
        return {result.stdout for result in await asyncio.gather(*(pool.run(request) for _ in range(20)))}

    assert len(asyncio.run(scenario())) == 1


def test_state_is_not_kept_when_nothing_will_follow(pool: SandboxPool, run: Program) -> None:
    run("x = 1")
    before = pool.stats().live_snapshots
    assert run("x = 1", "print(x)", keep_state=False).stdout == "1\n"
    assert pool.stats().live_snapshots == before


def test_the_last_child_uses_up_its_parent(pool: SandboxPool, run: Program) -> None:
    run("x = 1")
    before = pool.stats().live_snapshots
    result = run("x = 1", "x += 1\nprint(x)", last_child=True)
    assert (result.stdout, result.replayed_steps) == ("2\n", 0)
    assert pool.stats().live_snapshots == before
    assert run("x = 1", "x += 1\nprint(x)", "print(x)").stdout == "2\n"
    again = run("x = 1", "print('again', x)")
    assert (again.stdout, again.replayed_steps) == ("again 1\n", 1)


def test_release_forgets_a_group(pool: SandboxPool) -> None:
    async def scenario() -> tuple[int, int]:
        await pool.run(RunRequest(code="x = 1", group="gone"))
        pool.release("gone")
        pool.release("never seen")
        result = await pool.run(RunRequest(code="print(x)", history=("x = 1",), group="gone"))
        pool.release("gone")
        return result.replayed_steps, len(result.stdout)

    assert asyncio.run(scenario()) == (1, 2)


def test_promotion_to_the_heavy_zygote_keeps_state_and_hides_replayed_output(run: Program) -> None:
    first, second = "x = 2\nprint('light')", "y = x + 1\nprint('light too')"
    run(first)
    run(first, second)
    result = run(first, second, "import sympy\nprint(sympy.sqrt(y * 4))")
    assert (result.stdout, result.replayed_steps) == ("2*sqrt(3)\n", 2)
    sibling = run(first, second, "import numpy\nprint(int(numpy.int64(y)))")
    assert (sibling.stdout, sibling.replayed_steps) == ("3\n", 0)


def test_evicted_states_come_back_by_replay() -> None:
    async def scenario() -> None:
        async with SandboxPool(SandboxConfig(num_shards=1, max_snapshots=2)) as pool:
            codes = tuple(f"x{i} = {i}\nprint({i})" for i in range(6))
            for depth, code in enumerate(codes):
                result = await pool.run(RunRequest(code=code, history=codes[:depth], group="g"))
                assert result.stdout == f"{depth}\n"
            for depth in (1, 3, 2, 6, 0):
                code = "print(sorted(k for k in globals() if k[0] == 'x'))"
                result = await pool.run(RunRequest(code=code, history=codes[:depth], group="g"))
                assert result.stdout == f"{[f'x{i}' for i in range(depth)]}\n"
            stats = pool.stats()
            assert stats.evictions > 0
            assert stats.replayed_steps > 0
            assert stats.live_snapshots <= 2 + 1
            assert stats.nondeterministic_steps == 0

    asyncio.run(scenario())


def test_a_replay_that_prints_something_else_is_counted() -> None:
    async def scenario() -> int:
        async with SandboxPool(SandboxConfig(num_shards=1)) as pool:
            clock = "import time\nstamp = time.perf_counter_ns()\nprint(stamp)"
            await pool.run(RunRequest(code=clock, group="g"))
            await pool.run(RunRequest(code="y = 1", history=(clock,), group="g", last_child=True))
            result = await pool.run(RunRequest(code="print(stamp > 0)", history=(clock,), group="g"))
            assert (result.stdout, result.replayed_steps) == ("True\n", 1)
            return pool.stats().nondeterministic_steps

    assert asyncio.run(scenario()) == 1


def test_chance_is_the_same_in_every_run_and_replay(run: Program) -> None:
    draw = (
        "import random, os, uuid, secrets\n"
        "print(random.random(), os.urandom(4).hex(), uuid.uuid4(), secrets.randbelow(10**9), random.Random().random())\n"
        "print(hash('a'), {f'k{i}' for i in range(5)}, random.SystemRandom().random())"
    )
    first = run(draw)
    assert (first.verdict, first.error) == (OK, "")
    assert run("pass", draw).stdout == first.stdout
    heavy = "import numpy as np\nprint(np.random.rand(), np.random.default_rng().random())"
    assert run(heavy).stdout == run("pass", heavy).stdout


def test_chance_is_the_same_in_another_pool(run: Program) -> None:
    draw = "import random, os\nprint(random.random(), os.urandom(4), hash('x'))"

    async def elsewhere() -> str:
        async with SandboxPool(SandboxConfig(num_shards=1)) as other:
            return (await other.run(RunRequest(code=draw))).stdout

    assert asyncio.run(elsewhere()) == run(draw).stdout


def test_replayed_random_draws_continue_where_they_were(run: Program) -> None:
    run("import random\na = random.random()\nprint(a)")
    direct = run("import random\na = random.random()\nprint(a)", "print(random.random())").stdout
    replayed = run(
        "import random\na = random.random()\nprint(a)", "import sympy\nprint(random.random())"
    ).stdout
    assert direct == replayed
