"""Ask a question and look at everything that comes back.

    python -m examples.solve

Shows: how a solver is opened, once with a policy that is a plain function (no model, exact, instant) and once with the
embedded model; the answer and what speaks for it; the other answers; steps that failed, and why; and the events of a
search while it runs. Both solvers are used alike: whatever proposes steps is a policy.
"""

from __future__ import annotations

import asyncio

from rich.console import Console

from rstar import Answer, Finished, SearchConfig, Solver, StepsFound
from rstar.backends.scripted import ChainWorld
from rstar.terminal import draw_tree

CHAIN = "Start with 7. Then add 3. Then times 4."
"""What the scripted policy understands. It slips now and then on purpose."""
WORDS = "work out 30 percent of 100."
"""What the embedded model understands: problems of its curriculum."""


def main() -> None:
    """Both policies, then the events of a search."""
    search = SearchConfig(num_rollouts=4, num_candidates=4)
    with Solver(ChainWorld(num_operations=2, slip=0.1).policy(), search=search) as solver:
        show(solver.solve(CHAIN))
        asyncio.run(watch(solver, CHAIN))
    with Solver("rounds/base", search=search) as solver:
        show(solver.solve(WORDS))


def show(found: Answer) -> None:
    """An answer, from the outside in."""
    print(f"\n{found.question}\n")
    if found.trajectory is None:
        print(f"no answer: {found.reason}")
        return
    print(f"answer      {found.answer}, with {found.confidence:.0%} of the vote")
    for one in found.alternatives:
        print(f"  {one.support:4.0%}      {one.answer}, written {one.num_candidates} times")
    print(
        f"cost        {found.cost.tokens} tokens, {found.cost.executions} steps run, {found.cost.rollouts} rollouts"
    )
    print(f"stopped by  {found.stopped_by}\n\n{found.trajectory.text}\n")

    failed = [node for node in found.tree.nodes if not node.live]
    print(f"{len(failed)} of {len(found.tree.nodes) - 1} steps did not run")
    for node in failed[:3]:
        print(f"  {node.error}: {node.text.splitlines()[0]}")
    Console().print(draw_tree(found.tree))


async def watch(solver: Solver, question: str) -> None:
    """The same search as events, as a web page or a chat would show it."""
    async for event in solver.stream(question, seed=1):
        match event:
            case StepsFound(tree=tree, parent=parent, node_ids=new):
                print(f"after node {parent}: {len(new)} new steps, {len(tree.nodes) - 1} in all")
            case Finished(answer=answer):
                print(f"finished: {answer.answer}")


if __name__ == "__main__":
    main()
