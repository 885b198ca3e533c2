"""Whole trees on disk: durable, exact, and readable by any program that reads Parquet."""

from rstar.store.catalog import TreeRecord
from rstar.store.compaction import CompactionReport
from rstar.store.rows import Outcome
from rstar.store.schema import SCHEMA_VERSION, Kind
from rstar.store.store import RoundSummary, Store
from rstar.store.validation import Fault, Remedy
from rstar.store.writer import StoreWriter, settings_hash

__all__ = [
    "SCHEMA_VERSION", "CompactionReport", "Fault", "Kind", "Outcome", "Remedy", "RoundSummary", "Store", "StoreWriter",
    "TreeRecord", "settings_hash",
]  # fmt: skip
