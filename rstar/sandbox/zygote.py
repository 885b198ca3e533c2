"""The process that every interpreter of a shard is forked from: imports warmed, sources of chance fixed, then sealed.

Started by the server with an exec of its own, so that it holds nothing of the server's memory. It runs no step code.
There are two: a light one with the standard library's modules for mathematics, and a heavy one that has also
imported the configured libraries; a fork of the light one costs half as much.
"""

from __future__ import annotations

import _blake2
import array
import gc
import importlib
import json
import os
import random
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, Never

from rstar.sandbox import kernel
from rstar.sandbox.runner import CONTROL_FD, Runner
from rstar.sandbox.seal import seal

STANDARD_MODULES = (
    "abc", "array", "bisect", "builtins", "cmath", "collections", "collections.abc", "contextlib", "copy",
    "dataclasses", "datetime", "decimal", "enum", "fractions", "functools", "heapq", "io", "itertools", "json", "math", "mmap",
    "numbers", "operator", "os", "random", "re", "statistics", "string", "sys", "textwrap", "time",
    "traceback", "types", "typing", "warnings",
)  # fmt: skip
"""Imported before the first step. The rest of the standard library is imported by the step that wants it."""

_WARM_UP = """
from fractions import Fraction
from decimal import Decimal
import math, itertools, collections, functools, re, statistics, datetime
def f(n):
    return n if n < 2 else f(n - 1) + f(n - 2)
class Point:
    def __init__(self, x): self.x = x
print(f(5), Fraction(1, 3) + Fraction(1, 6), Decimal("0.1") + 1, math.comb(10, 3), math.gcd(12, 18), Point(2).x)
print(sum(x * x for x in range(10)), sorted({3, 1, 2}), [*itertools.permutations("ab")], "%d %.2f" % (1, 2.5))
print(f"{1234.5:,.2f} {'a':>3}", max([1, 2], key=lambda v: -v), round(2.567, 2), 10**20 // 7, divmod(7, 3))
for value in (int("12"), float("1.5"), str(3), abs(-2), pow(3, 4, 5)):
    try:
        value / 0
    except (ZeroDivisionError, TypeError) as error:
        str(error)
while True:
    break
assert all(x for x in [1]) and any([0, 1]), "never"
"""
_WARM_UP_NUMPY = """
import numpy as np
a = np.array([[2.0, 1.0], [1.0, 3.0]])
print(np.linalg.solve(a, [1, 2]), a @ a, np.arange(5).sum(), np.linspace(0, 1, 3), a.mean(), np.roots([1, -3, 2]))
"""
_WARM_UP_SYMPY = """
from sympy import *
x, y, n, k = symbols("x y n k")
print(solve(x**2 - 5*x + 6, x), solve([x + y - 3, x - y - 1], [x, y]), solve(Eq(2*x + 3, 7), x), expand((x + 1)**3))
print(factor(x**3 - 1), simplify(sin(x)**2 + cos(x)**2), diff(x**3 * exp(x), x), integrate(x**2, (x, 0, 1)))
print(limit(sin(x)/x, x, 0), summation(k, (k, 1, n)), sqrt(8), Rational(3, 6), N(pi, 5), factorint(360), isprime(97))
print(gcd(12, 18), lcm(4, 6), binomial(5, 2), Matrix([[1, 2], [3, 4]]).det(), solve(x**2 < 4, x), sympify("x**2+1"))
print(series(exp(x), x, 0, 3), apart(1/(x*(x + 1))), together(1/x + 1/y), (x**2).subs(x, 3), solveset(x**2 - 1, x))
print(nsimplify(0.5), cancel((x**2 - 1)/(x - 1)), floor(Rational(7, 2)), latex(x**2), Sum(k, (k, 1, 3)).doit())
"""


def main(arguments: list[str]) -> Never:
    """Become a zygote. `arguments` is one JSON object, written by the server (`processes.spawn_zygote`)."""
    settings: dict[str, Any] = json.loads(arguments[0])
    kernel_parts = kernel.IS_FULL_PATH and "clone" not in settings["without"]
    if kernel.IS_LINUX:
        kernel.die_with_parent()
    if not kernel_parts:
        signal.signal(
            signal.SIGCHLD, signal.SIG_IGN
        )  # os.fork's children are this process' own: let them be reaped
    sys.path[:] = [entry for entry in sys.path if os.path.isdir(entry)]
    sys.path += settings["library_folders"]
    runner = Runner(
        kept=settings["max_output_chars"],
        hard=settings["hard_output_chars"],
        fork=kernel.fork_sibling if kernel_parts else _portable_fork,
        after_fork=kernel.die_with_parent if kernel_parts else _do_nothing,
    )
    missing = _import_modules((*STANDARD_MODULES, *settings["libraries"]))
    _warm_up(runner, settings["libraries"])
    _fix_chance()
    _forget_the_way_in()
    collapsed = 0
    gc.collect()
    if kernel_parts and "huge_pages" not in settings["without"]:
        collapsed = kernel.collapse_heap()
        kernel.merge_library_data()
    sealed = seal(
        readable=settings["readable"],
        memory_mb=settings["memory_mb"],
        uid=settings["uid"],
        without=settings["without"],
    )
    runner.open_namespace()
    report = {"layers": sealed.layers, "missing_modules": missing, "collapsed_bytes": collapsed}
    control = socket.socket(fileno=os.dup(CONTROL_FD))
    rights: list[tuple[int, int, Any]] = []
    if sealed.listener is not None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [sealed.listener]))]
    control.sendmsg([json.dumps(report).encode()], rights)
    control.close()
    if sealed.listener is not None:
        os.close(sealed.listener)
    gc.collect()
    gc.freeze()
    runner.serve()


def _import_modules(names: tuple[str, ...]) -> list[str]:
    missing = []
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            missing.append(name)
    return missing


def _warm_up(runner: Runner, libraries: list[str]) -> None:
    # Steps in a name space of their own, run as steps are: fills the interpreter's and sympy's caches.
    streams = sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__
    main_module = sys.modules["__main__"]
    programs = [_WARM_UP]
    programs += [_WARM_UP_NUMPY] if "numpy" in libraries else []
    programs += [_WARM_UP_SYMPY] if "sympy" in libraries else []
    for program in programs * 2:
        runner.open_namespace()
        runner.run(program)
        runner.run("1 / 0")
        runner.stdout.take()
    sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__ = streams  # type: ignore[misc]
    sys.modules["__main__"] = main_module


def _fix_chance() -> None:
    """Close the sources of chance that a step can meet: a replay must see what the first run saw.

    Hash seed, address randomisation and time zone were fixed by the server. Seeds are set here and never again, so
    that `random.seed(7)` in one step holds in the next. Bytes that the operating system would draw come from a
    counter in this process' memory, which a fork inherits. Clocks are left as they are: see docs/sandbox.md.
    """
    drawn = 0

    def urandom(size: int, /) -> bytes:
        """`size` bytes, the same ones in every run of the same program."""
        nonlocal drawn
        blocks = []
        for _ in range(-(-size // 64)):
            blocks.append(_blake2.blake2b(drawn.to_bytes(8, "little")).digest())
            drawn += 1
        return b"".join(blocks)[:size]

    seed_from_value = random.Random.seed

    def seed(self: random.Random, a: Any = None, version: int = 2) -> None:
        """As in `random`, but without a value the seed is drawn from the fixed source."""
        seed_from_value(self, int.from_bytes(urandom(8), "little") if a is None else a, version)

    os.urandom = urandom
    random._urandom = urandom  # type: ignore[attr-defined]
    random.Random.seed = seed  # type: ignore[method-assign]
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    sys.set_int_max_str_digits(0)  # print(2**20000) is no error; the CPU limit bounds the conversion


def _forget_the_way_in() -> None:
    import _sitebuiltins
    import builtins

    # Python runs without `site` here; these two are the part of it that programs use.
    builtins.exit = _sitebuiltins.Quitter("exit", "Ctrl-D (i.e. EOF)")
    builtins.quit = _sitebuiltins.Quitter("quit", "Ctrl-D (i.e. EOF)")
    for name in [name for name in sys.modules if name.split(".")[0] == "rstar"]:
        del sys.modules[name]
    sys.argv[:] = [""]
    sys.orig_argv[:] = [""]
    os.environ.clear()
    os.chdir("/")


def _portable_fork() -> int:
    # `random` re-seeds itself after os.fork; its state belongs to the trajectory.
    state = random.getstate()
    try:
        pid = os.fork()
    except OSError as error:
        return -(error.errno or 1)
    if pid == 0:
        random.setstate(state)
    return pid


_do_nothing: Callable[[], None] = lambda: None  # noqa: E731
