"""What shows that the service keeps its word: cases over HTTP, benchmarks, and the upstream they run against."""
