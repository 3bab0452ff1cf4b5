"""The mean of several checkpoints' weights, as one checkpoint."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel

from training.checkpoint import open_model, open_tokenizer, point, write_checkpoint
from training.disk import keeping
from training.distill import has_head
from training.run import BEST
from training.thaw import save_quietly
from worker.contracts.errors import UsageError

_NAME = "mean"


def average(folders: Sequence[Path], out: Path) -> Path:
    """Write the mean of the weights, in fp32, under ``out``, and return what ``out/best`` names.

    It means something where one was fine-tuned from the other, or all from the same weights.
    Source: Wortsman et al. 2022, "Model soups", section 2 (the uniform soup).

    Raises:
        UsageError: a checkpoint cannot be read, has no head, or is of another shape or vocabulary.
        WorldError: the disk does not take it.
    """
    for folder in folders:
        refuse_no_head(folder)
    first = folders[0]
    mean, _ = open_model(first, dropout=0.0, attention="eager")
    total = mean.state_dict()
    for folder in folders[1:]:
        model, _ = open_model(folder, dropout=0.0, attention="eager")
        refuse_unlike(first, mean, folder, model)
        for name, tensor in model.state_dict().items():
            total[name] += tensor
    for tensor in total.values():
        tensor /= len(folders)  # noqa: PLW2901  in place: it is the model's own

    def write(folder: Path) -> None:
        save_quietly(mean, folder)
        shutil.copyfile(first / "tokenizer.json", folder / "tokenizer.json")

    with keeping(out):
        out.mkdir(parents=True, exist_ok=True)
    write_checkpoint(out, _NAME, write)
    point(out, BEST, _NAME)
    return out / BEST


def refuse_no_head(folder: Path) -> None:
    """Refuse a checkpoint whose head would be made at random.

    Raises:
        UsageError: it has none.
    """
    if not has_head(folder):
        raise UsageError(
            f"the checkpoint {folder.name} has no head for question answering, so it has no share"
            " in a mean: fine-tune it first"
        )


def refuse_unlike(
    first: Path, model: PreTrainedModel, other: Path, other_model: PreTrainedModel
) -> None:
    """Refuse a checkpoint whose weights do not mean the same as the first one's.

    Raises:
        UsageError: it has other weights, or another vocabulary.
    """
    tokens, others = (open_tokenizer(one / "tokenizer.json").get_vocab() for one in (first, other))
    if _list_shapes(model) != _list_shapes(other_model) or tokens != others:
        raise UsageError(
            f"the checkpoints {first.name} and {other.name} have no mean, since their weights or"
            " vocabularies differ: average what was fine-tuned from the same weights"
        )


def _list_shapes(model: PreTrainedModel) -> Mapping[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}
