"""The part of the hostile corpus that any Python can run in a pool, without pytest and without libraries."""

from __future__ import annotations

from rstar.protocols import RunRequest
from rstar.sandbox import SandboxConfig, SandboxPool
from tests.rstar.sandbox.hostile import CASES, Case

# No libraries: the light zygote alone starts in a tenth of a second.
LIGHT = SandboxConfig(num_shards=1, libraries=(), cpu_s=1.0, wall_s=3.0)


def forbidden_cases() -> dict[str, Case]:
    """The cases about files, network, processes and privileges that need only the standard library."""
    kinds = ("process-", "file-", "network-")
    return {
        name: case
        for name, case in CASES.items()
        if name.startswith(kinds) and "{outside" not in case[0] and name != "process-fork_bomb"
    }


async def wrong_verdicts(config: SandboxConfig, without: set[str]) -> list[str]:
    """Names and results of the forbidden cases that end otherwise than they should."""
    wrong = []
    async with SandboxPool(config, _without=without) as pool:
        for name, (code, expected) in forbidden_cases().items():
            assert isinstance(code, str)
            result = await pool.run(RunRequest(code=code, group=name, keep_state=False))
            if result.verdict not in expected:
                wrong.append(f"{name}: {result}")
        alive = await pool.run(RunRequest(code="print('ordinary')"))
        assert alive.stdout == "ordinary\n"
    return wrong
