"""How much work a round is: trees, expansions, tokens, executions, examples, pairs. Arithmetic on a recipe, no machine."""

from __future__ import annotations

from dataclasses import dataclass

from rounds.plan.assumptions import Assumptions
from rounds.recipe import RoundRecipe
from rstar.config import Guidance, SearchConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchWork:
    """What a search asks of its engines."""

    trees: float
    rollouts: float
    expansions: float
    tokens: float
    """Sampled."""
    prefix_tokens: float
    """Of all prefixes, those in the prefix cache included."""
    nodes: float
    executions: float
    scored_tokens: float
    """Of the steps that a preference model reads; 0 without one."""

    def __add__(self, other: SearchWork) -> SearchWork:
        mine, theirs = (tuple(getattr(one, name) for name in self.__slots__) for one in (self, other))
        return SearchWork(**dict(zip(self.__slots__, map(sum, zip(mine, theirs, strict=True)), strict=True)))


def expansions(num_rollouts: float, num_candidates: int, depth: float) -> float:
    """Of one tree with paths of `depth` steps: the first rollout expands all nodes of a path, as many as there are
    candidates go on from a child of the root, and later ones from one or two steps further down.

    `tests/rounds/plan/test_workload.py` compares it with real searches: within 10 % for depths of 5 and more.
    """
    second = min(num_rollouts - 1, num_candidates)
    later = max(0.0, num_rollouts - 1 - num_candidates)
    return num_rollouts * depth - second - min(depth - 1, 2) * later


def depth_of(expansions_per_tree: float, num_rollouts: float, num_candidates: int) -> float:
    """The depth of paths with which trees have so many expansions: the inverse of `expansions`."""
    second = min(num_rollouts - 1, num_candidates)
    later = max(0.0, num_rollouts - 1 - num_candidates)
    shallow = (expansions_per_tree + second - later) / (num_rollouts - later)
    deep = (expansions_per_tree + second + 2 * later) / num_rollouts
    return max(1.0, shallow if shallow < 3 else deep)


def search_work(trees: float, num_rollouts: float, search: SearchConfig, assumed: Assumptions) -> SearchWork:
    """Of so many trees of so many rollouts each."""
    depth = min(assumed.steps_per_solution, search.max_depth)
    expanded = trees * expansions(num_rollouts, search.num_candidates, depth)
    candidates = expanded * search.num_candidates
    nodes = candidates * (1 - assumed.equal_share)
    prefix = assumed.prompt_tokens + assumed.tokens_per_step * depth / 2
    guided = search.guidance is Guidance.PPM
    return SearchWork(
        trees=trees,
        rollouts=trees * num_rollouts,
        expansions=expanded,
        tokens=candidates * assumed.tokens_per_step,
        prefix_tokens=expanded * prefix,
        nodes=nodes,
        executions=nodes * assumed.executed_share,
        scored_tokens=nodes * assumed.tokens_per_step if guided else 0.0,
    )


def round_search(recipe: RoundRecipe, problems: float, assumed: Assumptions) -> SearchWork:
    """The search of one round with all its passes: what coverage leaves unsolved is searched on, then anew."""
    unsolved = 1 - assumed.coverage.get(str(recipe.round_index), 1.0)
    first = recipe.search.num_rollouts
    totals = (first, *recipe.unsolved.num_rollouts)
    work = search_work(problems, first, recipe.search, assumed)
    if more := totals[-1] - first:
        whole = search_work(problems * unsolved, totals[-1], recipe.search, assumed)
        begun = search_work(problems * unsolved, first, recipe.search, assumed)
        assert more > 0, "totals rise"
        work += _difference(whole, begun)
    if further := recipe.unsolved.num_trees - 1:
        work += search_work(problems * unsolved * further, totals[-1], recipe.search, assumed)
    return work


def _difference(whole: SearchWork, begun: SearchWork) -> SearchWork:
    """What taking trees on adds: no tree is new."""
    values = {name: getattr(whole, name) - getattr(begun, name) for name in SearchWork.__slots__}
    return SearchWork(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingWork:
    """What a training computes: `samples` (examples or pairs, in all epochs) of so many tokens in all."""

    samples: float
    tokens: float


def policy_training(recipe: RoundRecipe, problems: float, assumed: Assumptions) -> TrainingWork:
    """The examples of all solved problems, in every epoch."""
    solved = problems * assumed.coverage.get(str(recipe.round_index), 1.0)
    per_problem = min(recipe.sft_set.num_per_problem, assumed.solutions_per_problem)
    examples = solved * per_problem * recipe.sft.epochs
    length = assumed.prompt_tokens + assumed.steps_per_solution * assumed.tokens_per_step
    return TrainingWork(samples=examples, tokens=examples * length)


def ppm_training(recipe: RoundRecipe, problems: float, assumed: Assumptions) -> TrainingWork:
    """The pairs of all trees, those of earlier rounds too where the recipe takes them, in every epoch."""
    rounds = recipe.round_index if recipe.earlier_pairs else 1
    pairs = problems * assumed.pairs_per_tree * rounds * recipe.ppm.epochs
    return TrainingWork(samples=pairs, tokens=pairs * assumed.tokens_per_pair)
