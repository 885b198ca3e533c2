"""What this is, and its few most important numbers."""

from __future__ import annotations

from policy.statistics import ALL_LEVELS
from rounds.page import Block, Cards, Paragraph
from rounds.report.facts import SELECTION, RunFacts, coverage, titled

ABOUT = (
    "A small language model writes solutions step by step as commented Python. Monte-Carlo tree search tries many steps, runs "
    "each in a sandbox, keeps those that run cleanly, and learns from the final answers which steps lead to right ones. The "
    "best verified solutions train the model again, from the base; pairs of better and worse steps train a preference model, "
    "which then guides the next search. Each round searches with the models of the round before, so that search and models "
    "improve each other."
)
WORDS = (
    "Words: the policy is the model that writes, r2 the policy trained in round 2. PPM is the process preference model, which "
    "scores steps. A trajectory is one complete solution. Held-out problems are never searched for training. Intervals hold "
    "what another draw of problems would show, 95 times of 100."
)


def headline_section(facts: RunFacts) -> list[Block]:
    """The opening of the page."""
    base, trained = facts.policy(0), facts.policy(facts.last)
    cards = [
        (f"{base[level].rate:.0%} → {one.rate:.0%}", f"{titled(level)}: greedy pass@1 on held-out problems, base → r{facts.last}")
        for level, one in trained.items()
        if level in base
    ]  # fmt: skip
    ends = sorted({1, facts.last})
    shares = [f"{coverage(facts.summary(f'round{index}/search'))[ALL_LEVELS]:.0%}" for index in ends]
    rounds = " → ".join(f"round {index}" for index in ends)
    cards.append((" → ".join(shares), f"of the training problems solved by search, {rounds}"))
    if system := facts.system(facts.last):
        alone, share = (
            facts.policy(facts.last, searched=True)[ALL_LEVELS],
            system[ALL_LEVELS][SELECTION]["accuracy"],
        )
        cards.append(
            (f"{alone.rate:.0%} → {share:.0%}", f"of {alone.num_problems} held-out problems: r{facts.last} alone → the full system, in a search with its PPM")
        )  # fmt: skip
    return [Paragraph(ABOUT), Cards(cards), Paragraph(WORDS, note=True)]
