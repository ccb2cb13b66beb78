"""llama.cpp's own server on a GGUF file.

In the peers' environment: python llama_cpp_server.py MODEL.gguf SLOTS THREADS. Prints its address and what its build
uses of this CPU when it answers, and ends with its standard input.
"""

import sys

import xllamacpp

CONTEXT = 2048


def main() -> None:
    model, slots, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    options = xllamacpp.CommonParams()
    options.model.path = model
    options.n_parallel = slots
    options.n_ctx = CONTEXT * slots
    options.cpuparams.n_threads = options.cpuparams_batch.n_threads = threads
    options.port = 0
    options.ui = False
    options.verbosity = 0
    server = xllamacpp.Server(options)
    print(server.listening_address, " ".join(xllamacpp.get_system_info().split()), sep="\t", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
