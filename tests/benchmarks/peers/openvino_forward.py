"""OpenVINO on windows made elsewhere, forward only: no tokenizing, no decoding is timed.

Runs in an environment of its own: GRAPH WINDOWS.npz OUT.npz WINDOWS_PER_RUN THREADS. Windows are
sorted by length. One window a run goes through as many streams as there are threads and needs no
padding; several go through one stream, padded to the longest of their run, with a mask. Precision
is OpenVINO's own choice (bf16 where the processor has it).
"""

import sys
import time
from collections.abc import Iterator

import numpy as np
import openvino as ov  # type: ignore[import-not-found]
from numpy.typing import NDArray

Batch = tuple[list[int], dict[str, NDArray[np.int64]]]


def main(graph: str, windows: str, out: str, per_run: str, threads: str) -> None:
    """Compile, warm up, run all windows, and write their logits with the time they took."""
    given = np.load(windows)
    count = int(per_run)
    config = {
        "PERFORMANCE_HINT": "THROUGHPUT" if count == 1 else "LATENCY",
        "INFERENCE_NUM_THREADS": int(threads),
        "NUM_STREAMS": int(threads) if count == 1 else 1,
    }
    began = time.perf_counter()
    model = ov.Core().compile_model(graph, "CPU", config)
    names = {name for one in model.inputs for name in one.get_names()}
    batches = list(_batch(given["ids"], given["types"], given["lengths"], count, names))
    starts = np.full(given["ids"].shape, -np.inf, np.float32)
    ends = np.full(given["ids"].shape, -np.inf, np.float32)

    def keep(request: ov.InferRequest, members: list[int]) -> None:
        for into, number in ((starts, 0), (ends, 1)):
            logits = request.get_output_tensor(number).data
            into[members, : logits.shape[1]] = logits

    queue = ov.AsyncInferQueue(model, 2 * int(threads) if count == 1 else 1)
    queue.set_callback(keep)
    _run(queue, batches)  # makes the kernels for each length
    ready = time.perf_counter()
    _run(queue, batches)
    ended = time.perf_counter()
    np.savez(
        out, starts=starts, ends=ends, seconds=ended - ready, load_seconds=ready - began,
        precision=str(model.get_property("INFERENCE_PRECISION_HINT")), version=ov.__version__,
    )  # fmt: skip


def _run(queue: ov.AsyncInferQueue, batches: list[Batch]) -> None:
    for members, feed in batches:
        queue.start_async(feed, members)
    queue.wait_all()


def _batch(
    ids: NDArray[np.int64],
    types: NDArray[np.int64],
    lengths: NDArray[np.int64],
    count: int,
    names: set[str],
) -> Iterator[Batch]:
    """Yield runs of windows, the shortest first. Shape of ids and types: (windows, longest)."""
    order = np.argsort(lengths, kind="stable")
    for first in range(0, len(order), count):
        members = order[first : first + count]
        longest = int(lengths[members].max())
        mask = (np.arange(longest) < lengths[members, None]).astype(np.int64)
        feed = {
            "input_ids": ids[members, :longest],
            "token_type_ids": types[members, :longest],
            "attention_mask": mask,
        }
        yield members.tolist(), {name: feed[name] for name in feed if name in names}


if __name__ == "__main__":
    main(*sys.argv[1:])
