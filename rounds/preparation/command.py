"""The command `rstar problems prepare`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rstar.cli import AsJson, Settings, print_json, print_rows
from rstar.errors import ConfigError


def prepare_command(
    pools: Annotated[
        list[str],
        typer.Argument(
            metavar="POOL...",
            help="JSONL, JSON or Parquet files, or hub:NAME[:SPLIT[:CONFIG]].",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="The .jsonl or .parquet file to write.", show_default=False)],
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="Evaluation problems that must not be given away; as POOL. Repeatable.", show_default=False
        ),
    ] = None,
    samples: Annotated[
        Path | None,
        typer.Option(
            help="Store of searched problems, for pass rates and synthetic problems.", show_default=False
        ),
    ] = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Join pools into one: leave out duplicates, what evaluation problems give away, and doubtful answers; give levels.

    Beside the file a report (counts, settings) and a list of what was left out and why. Settings: ngram=13,
    levels.SOURCE=easy, pass_rates.easy=0.8, synthetic_sources=[SOURCE], min_agreeing=3, ... (docs/data.md).
    """
    from rounds.preparation.config import PreparationConfig
    from rounds.preparation.prepare import Drop, Reason, prepare
    from rounds.preparation.report import report, write_report
    from rounds.preparation.samples import read_samples
    from rounds.preparation.sources import read_pool
    from rstar.config import build, override
    from rstar.grading import Grader
    from rstar.problems import write_problems
    from rstar.store import Store

    config = build(PreparationConfig, override({}, settings or []), where="--set")
    if config.needs_samples and samples is None:
        raise ConfigError(
            "pass_rates, max_pass_rate and synthetic_sources go by sampled answers; name a store of them with --samples"
        )
    read = [read_pool(pool) for pool in pools]
    problems = [problem for found in read for problem in found.problems]
    malformed = [Drop("", f.file, Reason.MALFORMED, str(f)) for found in read for f in found.faults]
    evaluation = [problem for source in against or () for problem in read_pool(source).problems]
    found_samples = read_samples(Store(samples), {p.id for p in problems}) if samples is not None else {}
    with Grader() as grader:
        prepared = prepare(problems, evaluation, config, grader=grader, samples=found_samples)
    prepared.drops[:0] = malformed
    values = report(prepared, config, pools=pools, against=against or (), num_evaluation=len(evaluation))
    written, dropped = write_report(out, prepared, values)
    if not prepared.problems:
        raise ConfigError(f"no problem is left, so {out} was not written; {dropped} says why of each")
    write_problems(out, prepared.problems)
    if as_json:
        print_json(values)
        return
    rows = [("problems read", values["problems_in"]), ("evaluation problems", values["evaluation_problems"])]
    rows += [(f"  {reason}", count) for reason, count in values["dropped"].items()]
    rows += [("kept", values["problems_kept"])]
    rows += [(f"  level {level}", count) for level, count in values["kept_by_level"].items()]
    print_rows(out.name, rows)
    print(f"report: {written}; left out: {dropped}", file=sys.stderr)
