"""Runs an ONNX model in DeepSparse for `inference.py`, in an environment of its own: one inference for each line read.

    python3.11 -m venv ENVIRONMENT && ENVIRONMENT/bin/pip install deepsparse==1.8.0 "numpy<2"
    ENVIRONMENT/bin/python benchmarks/deepsparse_server.py MODEL.onnx INPUTS.npz OUTPUTS.npy CORES

The first line written is JSON: the share of the model that its engine takes (the rest would run elsewhere) and its cores.
Every other one is the seconds of an inference. Needs nothing but DeepSparse and numpy.
"""

import json
import sys
import time

import deepsparse  # type: ignore[import-not-found]
import numpy as np


def main() -> None:
    """Loads, tells, and answers until there are no more lines."""
    model, inputs, outputs, cores = sys.argv[1:]
    with np.load(inputs) as saved:
        given = dict(saved)
    batch = next(iter(given.values())).shape[0]
    engine = deepsparse.Engine(model, batch_size=batch, num_cores=int(cores))
    ordered = [np.ascontiguousarray(given[name]) for name in engine.input_names]
    np.save(outputs, engine.run(ordered)[0])
    print(json.dumps({"cores": engine.num_cores, "supported": engine.fraction_of_supported_ops}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        engine.run(ordered, val_inp=False)
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
