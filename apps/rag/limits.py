"""The library's limits: how large, how long, how many. Values from the settings, or a test's own."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    file_bytes: int = 32 * 2**20
    """Largest upload; a larger one is PayloadTooLarge."""
    text_chars: int = 20_000_000
    """Most text that may come out of a file."""
    files_per_job: int = 1000
    queued_files: int = 10_000
    """Files that wait, of all tenants together; one tenant has half of them. More are Overloaded."""
    queued_bytes: int = 2 * 2**30
    ocr: bool = True
    """Pictures and scanned pages are recognised where tesseract is installed."""
    ocr_languages: str = "eng"
    """Of tesseract's packages, joined by +."""
    chunk_tokens: int = 220
    chunk_overlap: float = 0.15
    """A share of chunk_tokens."""
    parse_memory: int = 512 * 2**20
    parse_seconds: float = 20
    """CPU time for a file. By the clock it may take three times that, since the embedder wants the same cores."""
    workers: int = 2
    """Files that one process ingests at the same time: one is parsed while another is embedded."""
    lease_seconds: float = 15
    """A worker that was killed gives its files back after that."""
    job_days: float = 7
    """Finished jobs are remembered that long."""
    top_k: int = 100
