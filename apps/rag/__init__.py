"""Documents in, passages out: ingestion, the index and retrieval. Knows apps.core only; no HTTP, no model."""
