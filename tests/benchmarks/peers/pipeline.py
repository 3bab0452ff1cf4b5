"""The question-answering pipeline of transformers 4.57 on a file of rows; knows nothing of ours.

Runs in an environment of its own: CHECKPOINT ROWS.jsonl OUT.json BATCH_SIZE THREADS.
"""

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers

#: As ours: windows of 384 tokens that share 128, answers of at most 30, abstaining allowed.
SETTINGS: dict[str, Any] = {
    "max_seq_len": 384,
    "doc_stride": 128,
    "max_answer_len": 30,
    "handle_impossible_answer": True,
    "top_k": 1,
}
WARM_UP_ROWS = 8


def main(checkpoint: str, rows: str, out: str, batch_size: str, threads: str) -> None:
    """Load, warm up, answer all rows, and write the answers with both times."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    torch.set_num_threads(int(threads))
    began = time.perf_counter()
    make: Any = transformers.pipeline
    answer = make("question-answering", checkpoint, device="cpu")
    lines = Path(rows).read_text(encoding="utf-8").splitlines()
    questions = [
        {"question": row["question"], "context": row["context"]} for row in map(json.loads, lines)
    ]
    settings = SETTINGS | {"batch_size": int(batch_size)}
    with torch.inference_mode():
        answer(questions[:WARM_UP_ROWS], **settings)
        ready = time.perf_counter()
        found = answer(questions, **settings)
        ended = time.perf_counter()
    report = {
        "answers": [one["answer"] for one in found],
        "load_seconds": ready - began,
        "seconds": ended - ready,
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__},
    }
    Path(out).write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
