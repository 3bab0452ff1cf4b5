"""Fine-tuning a model of MiniLM's size in batches of 32 windows of 384 tokens fits in 6 GiB."""

import json
import os
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForQuestionAnswering

from tests.tiny import PASSAGES, make_tokenizer

_LIMIT_GIB = 6
_WINDOWS = 32
_STEPS = 2


def _write_checkpoint(folder: Path) -> None:
    """Write a random BERT of MiniLM-L6's shape, its vocabulary's size among it."""
    config = AutoConfig.for_model(
        "bert", num_hidden_layers=6, hidden_size=384, intermediate_size=1536, vocab_size=30522
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        AutoModelForQuestionAnswering.from_config(config).save_pretrained(folder)
    make_tokenizer("bert").save(str(folder / "tokenizer.json"))


def _write_rows(file: Path, count: int) -> None:
    """Write rows whose passages each fill a window of 384 tokens, and begin a second one."""
    lines = []
    for number in range(count):
        words = f"{number} ".join(PASSAGES).split()
        context = " ".join((words * 9)[:330])
        answers = {"text": [words[0]], "answer_start": [0]}
        row = {"id": str(number), "title": "mill", "question": "Who?", "context": context}
        lines.append(json.dumps(row | {"answers": answers}))
    file.write_text("\n".join(lines) + "\n")


def test_batches_of_32_windows_of_384_tokens_train_within_6_gib(tmp_path: Path) -> None:
    _write_checkpoint(tmp_path / "checkpoint")
    _write_rows(tmp_path / "rows.jsonl", _STEPS * _WINDOWS + 8)
    command = [
        *(sys.executable, "-m", "producer.cli", "training", "finetune"),
        *(str(tmp_path / "checkpoint"), "--data", str(tmp_path / "rows.jsonl")),
        *("--out", str(tmp_path / "out"), "--held-out-share", "0.1"),
        *("--batch-windows", str(_WINDOWS)),
    ]
    child = os.posix_spawn(sys.executable, command, os.environ)
    _, status, used = os.wait4(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    assert sum("loss" in json.loads(line) for line in lines) >= _STEPS
    assert used.ru_maxrss / 1024**2 < _LIMIT_GIB
