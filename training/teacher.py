"""Teachers: what they say of windows, asked once and kept in Parquet; one alone can be watched."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from training.checkpoint import find_checkpoint, open_tokenizer, read_family
from training.export import open_checkpoint
from training.fence import draft_of, heed, writing
from training.predict import SpanModel, TorchScorer
from training.progress import tell_progress
from worker.contracts.bundle import MANIFEST, load_bundle, prove_file
from worker.contracts.errors import JobError, UsageError, WorldError
from worker.contracts.family import FAMILIES, Family, WindowSizes
from worker.contracts.options import ForwardPolicy
from worker.reading.reader import Scorer, cut_forward_batches, pad_windows
from worker.reading.windows import Encoder, Window
from worker.session import OnnxScorer

#: Windows that are asked and written at once: what an interruption can cost.
PART_WINDOWS = 2_048
_POLICY = ForwardPolicy(max_windows=32)
#: What of a tokenizer decides which tokens a text becomes.
_TOKENIZER_PARTS = ("added_tokens", "normalizer", "pre_tokenizer", "model")


@dataclass(frozen=True, slots=True)
class SoftLabel:
    """A window's logits in the teachers' mean. Shapes: both ``(window_tokens,)``.

    Half precision rounds logits below 8 by 0.004 at most, which is less than teachers differ by.
    """

    starts: NDArray[np.float16]
    ends: NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Teacher:
    """A checkpoint or a bundle that reads. ``digest`` is that of its files."""

    folder: Path
    family: Family
    digest: str
    is_bundle: bool


def find_teacher(name: str) -> Teacher:
    """Return the teacher of this path or hub name; its weights are not loaded yet.

    Raises:
        UsageError: there is none, or it cannot be one.
    """
    if (Path(name) / MANIFEST).is_file():
        bundle = load_bundle(Path(name))
        family = FAMILIES[bundle.manifest.family]
        return Teacher(bundle.folder, family, bundle.digest, is_bundle=True)
    folder = find_checkpoint(name)
    files = [folder / "config.json", folder / "tokenizer.json", *folder.glob("*.safetensors")]
    proofs = "".join(prove_file(file).sha256 for file in sorted(files))
    return Teacher(folder, read_family(folder), _digest(proofs.encode()), is_bundle=False)


def refuse_other_tokens(teachers: Sequence[Teacher], student: Path) -> None:
    """Refuse teachers to whom the student's windows would mean something else.

    Raises:
        UsageError: a tokenizer, or how a family joins question and context, differs.
    """
    family = read_family(student)
    tokens = _describe_tokens(student, family)
    for teacher in teachers:
        if _describe_tokens(teacher.folder, teacher.family) != tokens:
            raise UsageError(
                f"the teacher {teacher.folder.name} reads other tokens than the student"
                f" {student.name}: distil between models of one tokenizer and one kind of family"
            )


def open_model_to_watch(teachers: Sequence[Teacher], sizes: WindowSizes) -> PreTrainedModel:
    """Load the one teacher whose layers are to be imitated.

    Raises:
        UsageError: there are several, or it is a bundle, which hides its layers.
    """
    refuse_unwatchable(teachers)
    model = open_checkpoint(str(teachers[0].folder), sizes).model
    model.set_attn_implementation("eager")
    return model.requires_grad_(requires_grad=False)


def refuse_unwatchable(teachers: Sequence[Teacher]) -> None:
    """Refuse teachers whose layers cannot be imitated.

    Raises:
        UsageError: there are several, or it is a bundle, which hides its layers.
    """
    if len(teachers) != 1 or teachers[0].is_bundle:
        what = "a bundle" if len(teachers) == 1 else f"{len(teachers)} teachers"
        raise UsageError(
            f"hidden states, attention and relations cannot be learned from {what}: give one"
            " checkpoint as the teacher, or weigh hard and soft targets alone"
        )


class Panel:
    """Teachers who answer together, by the mean of their logits."""

    def __init__(self, teachers: Sequence[Teacher], encoder: Encoder, device: torch.device) -> None:
        """Load nothing until the first question."""
        self._teachers = teachers
        self._encoder = encoder
        self._device = device

    def ask(self, windows: Sequence[Window]) -> list[SoftLabel]:
        """Run every teacher over the windows.

        Raises:
            JobError: a teacher's logits are no numbers.
        """
        sums = [np.zeros((2, len(window)), np.float64) for window in windows]
        for teacher, scorer in zip(self._teachers, self._scorers, strict=True):
            for number, logits in _score(scorer, windows, self._encoder.pad):
                sums[number] += logits
                _refuse_no_numbers(teacher, sums[number])
        means = [(one / len(self._teachers)).astype(np.float16) for one in sums]
        return [SoftLabel(starts, ends) for starts, ends in means]

    @cached_property
    def _scorers(self) -> list[Scorer]:
        return [self._open(teacher) for teacher in self._teachers]

    def _open(self, teacher: Teacher) -> Scorer:
        if teacher.is_bundle:
            return OnnxScorer(load_bundle(teacher.folder).model)
        model = open_model_to_watch([teacher], self._encoder.sizes)
        return TorchScorer(SpanModel(model).to(self._device), self._encoder.pad)


class Cache:
    """A folder of Parquet files with what some teachers said, window by window.

    A window is known by its tokens, so that its settings and its row are known with it. A file
    under its final name is whole; an interruption costs the part that was being asked.
    """

    def __init__(self, root: Path, teachers: Sequence[Teacher], precision: str) -> None:
        """Choose the folder by the teachers' files and the precision that they run in."""
        digests = sorted(teacher.digest for teacher in teachers)
        self._folder = root / _digest("".join([precision, *digests]).encode())[:32]

    def label(self, windows: Sequence[Window], panel: Panel) -> list[SoftLabel]:
        """Return every window's label; the panel is asked for those that are not there yet.

        Raises:
            JobError: a teacher's logits are no numbers.
            WorldError: the folder cannot be written or read.
        """
        keys = [_key(window) for window in windows]
        try:
            known = self._read(set(keys))
            unknown = {k: w for k, w in zip(keys, windows, strict=True) if k not in known}
            for part in _cut(sorted(unknown, key=lambda key: (len(unknown[key]), key))):
                heed()
                known |= zip(part, panel.ask([unknown[key] for key in part]), strict=True)
                self._write({key: known[key] for key in part})
                tell_progress()
        except (OSError, pa.ArrowException) as error:
            raise WorldError(
                f"the teachers' labels under {self._folder} cannot be kept or read ({error}): make"
                " room, or delete what is damaged, and run again"
            ) from error
        return [known[key] for key in keys]

    def _read(self, wanted: set[bytes]) -> dict[bytes, SoftLabel]:
        known = {}
        for path in sorted(self._folder.glob("*.parquet")):
            table = pq.read_table(path)
            starts, ends = _split(table["starts"]), _split(table["ends"])
            for key, start, end in zip(table["window"].to_pylist(), starts, ends, strict=True):
                if key in wanted:
                    known[key] = SoftLabel(start, end)
        return known

    def _write(self, labels: dict[bytes, SoftLabel]) -> None:
        table = pa.table(
            {
                "window": pa.array(list(labels), pa.binary(16)),
                "starts": _join([label.starts for label in labels.values()]),
                "ends": _join([label.ends for label in labels.values()]),
            }
        )
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{_digest(b''.join(labels))[:32]}.parquet"
        draft = draft_of(path)
        pq.write_table(table, draft, compression="zstd")
        with writing():
            draft.replace(path)


def _score(
    scorer: Scorer, windows: Sequence[Window], pad: int
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield the windows' numbers and logits. Shape: ``(2, window_tokens)``, starts and ends."""
    for group in cut_forward_batches(windows, _POLICY, mask=scorer.takes_mask):
        starts, ends = scorer.score(pad_windows([windows[number] for number in group], pad))
        for row, number in enumerate(group):
            yield number, np.stack([starts[row], ends[row]])[:, : len(windows[number])]


def _refuse_no_numbers(teacher: Teacher, logits: NDArray[np.float64]) -> None:
    if not np.abs(logits).max() < np.finfo(np.float16).max:  # no comparison with NaN is true
        raise JobError(
            f"a logit of the teacher {teacher.folder.name} is no number, or beyond half precision:"
            " take another checkpoint of it"
        )


def _describe_tokens(folder: Path, family: Family) -> tuple[str, Family]:
    tokenizer = json.loads(open_tokenizer(folder / "tokenizer.json").to_str())
    parts = [tokenizer.get(part) for part in _TOKENIZER_PARTS]
    return json.dumps(parts, sort_keys=True), replace(family, name="")


def _cut(keys: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for first in range(0, len(keys), PART_WINDOWS):
        yield keys[first : first + PART_WINDOWS]


def _key(window: Window) -> bytes:
    tokens = np.concatenate([window.input_ids, window.token_type_ids])
    return hashlib.blake2b(tokens.tobytes(), digest_size=16).digest()


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def _join(arrays: Sequence[NDArray[np.float16]]) -> pa.ListArray:
    ends = np.cumsum([0, *(len(array) for array in arrays)])
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(np.concatenate(arrays)))


def _split(column: pa.ChunkedArray) -> list[NDArray[np.float16]]:
    lists = column.combine_chunks()
    values = lists.flatten().to_numpy()
    return np.split(values, lists.offsets.to_numpy()[1:-1])
