"""The console: one page in the browser over the public API, and the calls that it needed first."""
