"""`python -m apps.rag`: the command line of collections of documents.

It needs a concrete embedder, which this floor may not know; so the command itself stands on the floor above, and is
run by its name, as the interpreter's -m would do.
"""

import runpy

if __name__ == "__main__":
    runpy.run_module("apps.cli.documents", run_name="__main__", alter_sys=True)
