"""The stateful sandbox: each step of a search tree runs in the interpreter state that its ancestors' code left.

`SandboxPool` implements `rstar.protocols.Sandbox`; see docs/sandbox.md for the design and its limits. Not covered:
grading, and languages other than Python.
"""

from rstar.sandbox.config import SandboxConfig
from rstar.sandbox.pool import SandboxPool, SandboxStats
from rstar.sandbox.report import IsolationReport, Layer

__all__ = ["IsolationReport", "Layer", "SandboxConfig", "SandboxPool", "SandboxStats"]
