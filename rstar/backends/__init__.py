"""Policy and value back-ends, each a thin adapter behind `rstar.protocols`."""
