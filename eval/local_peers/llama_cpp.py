"""llama.cpp's own server on a GGUF file, in the peers' environment: python llama_cpp.py MODEL.gguf SLOTS THREADS.

Prints its address, and what the build uses of this CPU, when it answers; ends with its standard input. The context of a
slot is that of the model. Nothing of a prompt is kept for the next one.
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
    options.kv_unified = False
    options.cpuparams.n_threads = options.cpuparams_batch.n_threads = threads
    options.cache_prompt = False
    options.cache_ram_mib = 0
    options.port = 0
    options.ui = False
    options.verbosity = 0
    server = xllamacpp.Server(options)
    print(server.listening_address, xllamacpp.get_system_info().replace("\n", " "), sep="\t", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
