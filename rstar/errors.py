"""The errors of the project, one hierarchy.

    RstarError
    ├── ConfigError      (ValueError)    a setting, override or recipe is wrong
    ├── ProblemError     (ValueError)    a problem file or one of its lines is wrong
    ├── FormatError      (ValueError)    a text does not follow the step format
    ├── StoreError       (ValueError)    a store's files or rows are not what they should be
    ├── StageError       (RuntimeError)  a stage of a round could not finish
    ├── BackendError     (RuntimeError)  a model back-end failed (not: the model wrote nonsense)
    ├── SandboxError     (RuntimeError)  the sandbox failed (not: the program in it failed)
    └── GradingError     (RuntimeError)  the grader failed (not: the answer is wrong)

Every message is one line that a user can act on: what was wrong, where, and what would be right.
The command line prints it without a traceback. What a *model* gets wrong (a program that raises, a
step that does not parse, a wrong answer) is data in the tree and never an exception that leaves the search.
"""

from __future__ import annotations


class RstarError(Exception):
    """Base of everything this project raises on purpose."""


class ConfigError(RstarError, ValueError):
    """A setting, an override or a recipe is wrong."""


class ProblemError(RstarError, ValueError):
    """A problem file, or one of its rows, is wrong."""


class FormatError(RstarError, ValueError):
    """A text does not follow the step format."""


class StoreError(RstarError, ValueError):
    """A store's files or rows are not what they should be."""


class StageError(RstarError, RuntimeError):
    """A stage of a round could not finish."""


class BackendError(RstarError, RuntimeError):
    """A model back-end failed."""


class SandboxError(RstarError, RuntimeError):
    """The sandbox itself failed; a program that fails in it is an `ExecutionResult`."""


class GradingError(RstarError, RuntimeError):
    """The grader itself failed; a wrong answer is a `Verdict`."""
