"""Runs a compiled model on a Coral board and prints one JSON line.

This file is copied to the board and run by its Python (3.5 and later, so no newer syntax), with
the packages that Mendel Linux brings. Usage: remote_runner.py MODEL WARMUPS RUNS [INPUTS.bin]
"""

# mypy: allow-untyped-defs, allow-untyped-calls

import json
import sys
import time


def _interpreter(path):
    try:
        from tflite_runtime.interpreter import Interpreter, load_delegate
    except ImportError:
        from ai_edge_litert.interpreter import Interpreter, load_delegate
    delegate = load_delegate("libedgetpu.so.1")
    return Interpreter(model_path=path, experimental_delegates=[delegate])


def main():
    import zlib

    import numpy

    path, warmups, runs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    interpreter = _interpreter(path)
    interpreter.allocate_tensors()
    data = b""
    if len(sys.argv) > 4:
        with open(sys.argv[4], "rb") as file:
            data = file.read()
    for detail in interpreter.get_input_details():
        shape, dtype = tuple(int(d) for d in detail["shape"]), numpy.dtype(detail["dtype"])
        count = int(numpy.prod(shape)) * dtype.itemsize
        chunk, data = data[:count], data[count:]
        chunk = chunk + b"\0" * (count - len(chunk))
        interpreter.set_tensor(detail["index"], numpy.frombuffer(chunk, dtype).reshape(shape))

    def once():
        start = time.perf_counter()
        interpreter.invoke()
        return (time.perf_counter() - start) * 1e6

    first = once()
    outputs = []
    for detail in interpreter.get_output_details():
        content = interpreter.get_tensor(detail["index"]).tobytes()
        outputs.append({"bytes": len(content), "crc32": zlib.crc32(content) & 0xFFFFFFFF})
    for _ in range(warmups):
        once()
    times = [once() for _ in range(runs)]
    print(json.dumps({"first_us": first, "latencies_us": times, "outputs": outputs}))


if __name__ == "__main__":
    main()
