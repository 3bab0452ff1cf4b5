"""Checkpoints on disk: opened without pickle, written whole or not at all."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    PretrainedConfig,
    PreTrainedModel,
)

from training.dropout import replace_dropout
from training.fence import draft_of, writing
from worker.contracts.bundle import prove_file
from worker.contracts.errors import UsageError, WorldError
from worker.contracts.family import FAMILIES, Family, WindowSizes
from worker.reading.windows import Encoder

_NEEDED = ("config.json", "tokenizer.json", "*.safetensors", "model.safetensors.index.json")
_LATEST = "latest"
#: What the names of a reader's weights begin with that an encoder does not have.
_HEAD = "qa_outputs."
#: Families whose positions count from the padding token's id + 1.
POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta")
#: What the families call their dropouts, of hidden states and of attention maps.
_DROPOUTS = ("hidden_dropout_prob", "dropout", "qa_dropout")
_ATTENTION_DROPOUTS = ("attention_probs_dropout_prob", "attention_dropout")


class HubAwayError(UsageError):
    """The hub is out of reach: another name or a folder helps, or the network coming back."""


def find_checkpoint(name: str) -> Path:
    """Return the folder of a checkpoint: a path, or a hub name, fetched or found in the cache.

    Raises:
        UsageError: it is neither, the hub is out of reach, or it has no weights as safetensors.
    """
    folder = Path(name)
    if folder.is_file():
        raise UsageError(f"the checkpoint {name} is a file: give the folder that it lies in")
    if not folder.exists():
        folder = _fetch(name)
    if not any(folder.glob("*.safetensors")):
        raise UsageError(
            f"the checkpoint {name} has no weights as safetensors, and pickled weights are never"
            " opened: convert it to safetensors where you trust it"
        )
    for needed in ("config.json", "tokenizer.json"):
        if not (folder / needed).is_file():
            raise UsageError(f"the checkpoint {name} has no {needed}: save it whole")
    return folder


def open_model(folder: Path, *, dropout: float, attention: str) -> tuple[PreTrainedModel, Family]:
    """Load a checkpoint of a known family as a reader in fp32; a missing head is made new.

    Hidden states are dropped, attention maps are not: those are larger, and drawing for them slow.

    Raises:
        UsageError: another family, or weights that cannot be read or are not all there.
    """
    family = read_family(folder)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    for names, share in ((_DROPOUTS, dropout), (_ATTENTION_DROPOUTS, 0.0)):
        for name in names:
            if hasattr(config, name):
                setattr(config, name, share)
    model = _load(folder, config, attention)
    replace_dropout(model)
    return model, family


def read_family(folder: Path) -> Family:
    """Return the family that a checkpoint's configuration names.

    Raises:
        UsageError: the configuration is damaged, or its family not one that the worker reads.
    """
    try:
        kind = AutoConfig.from_pretrained(folder, local_files_only=True).model_type
    except StrictDataclassError as error:
        what = " ".join(str(error).split())
        raise UsageError(
            f"the config.json of {folder.name} is of no model ({what}): take a checkpoint that"
            " transformers has saved"
        ) from error
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the config.json of {folder.name} names no model type: take a checkpoint that"
            " transformers has saved"
        ) from error
    if kind not in FAMILIES:
        raise UsageError(
            f"the checkpoint {folder.name} is of the family {kind}, which is not read here: use one"
            f" of {', '.join(FAMILIES)}"
        )
    return FAMILIES[kind]


def open_encoder(folder: Path, family: Family, sizes: WindowSizes) -> Encoder:
    """Return the encoder that windows texts for a checkpoint.

    Raises:
        UsageError: its tokenizer is damaged.
    """
    return Encoder(open_tokenizer(folder / "tokenizer.json"), family, sizes)


def open_tokenizer(file: Path) -> Tokenizer:
    """Load a tokenizer.

    Raises:
        UsageError: it is damaged, or of another format.
    """
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises nothing more special
        raise UsageError(
            f"the tokenizer {file} cannot be read ({error}): take the tokenizer.json that the model"
            " was trained with"
        ) from error


def check_fit(model: PreTrainedModel, folder: Path, sizes: WindowSizes) -> None:
    """Refuse windows or a tokenizer that a model cannot read.

    Raises:
        UsageError: it has fewer positions, or fewer tokens.
    """
    positions = getattr(model.config, "max_position_embeddings", None)
    if model.config.model_type in POSITIONS_AFTER_PADDING and positions is not None:
        positions -= model.config.pad_token_id + 1
    if positions is not None and sizes.max_window_tokens > positions:
        raise UsageError(
            f"the checkpoint {folder.name} reads {positions} tokens but windows have"
            f" {sizes.max_window_tokens}: lower max_window_tokens"
        )
    known = open_tokenizer(folder / "tokenizer.json").get_vocab_size()
    if known > model.config.vocab_size:
        raise UsageError(
            f"the tokenizer of {folder.name} has {known} tokens but the model knows"
            f" {model.config.vocab_size}: take the tokenizer that the model was trained with"
        )


def prove_weights(folder: Path) -> str:
    """Return the digest of a checkpoint's weights, or of the file that lists their parts."""
    whole = folder / "model.safetensors"
    return prove_file(whole if whole.is_file() else folder / f"{whole.name}.index.json").sha256


def write_checkpoint(out: Path, name: str, write: Callable[[Path], None]) -> Path:
    """Write a folder under ``out``, whole and on disk, then point ``out/latest`` to it.

    Until then ``latest`` is the previous one, which stays as it was whatever fails.

    Raises:
        WorldError: the disk is full or does not take it.
    """
    final = out / name
    draft = draft_of(final)
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        write(draft)
        for file in draft.iterdir():
            _sync(file)
        _sync(draft)
        with writing():
            shutil.rmtree(final, ignore_errors=True)
            draft.rename(final)
            point(out, _LATEST, name)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise WorldError(
            f"the checkpoint {name} could not be written under {out} ({error}): make room and"
            " resume; the previous checkpoint is as it was"
        ) from error
    return final


def point(out: Path, link: str, name: str) -> None:
    """Let ``out/link`` name the folder ``name``, at once.

    Raises:
        WorldError: the disk does not take it; the link is as it was.
    """
    draft = draft_of(out / link)
    try:
        with writing():
            draft.unlink(missing_ok=True)
            draft.symlink_to(name, target_is_directory=True)
            draft.replace(out / link)
            _sync(out)
    except OSError as error:
        raise WorldError(
            f"{out / link} could not be set to {name} ({error.strerror}): make room and resume;"
            " every checkpoint is as it was"
        ) from error


def find_latest(out: Path) -> Path | None:
    """Return the newest whole checkpoint of a run, None before the first."""
    latest = out / _LATEST
    return latest.resolve() if latest.exists() else None


def drop_old(out: Path, kept: int) -> None:
    """Delete all but the newest checkpoints and those that a link names; and what killed ones left.

    Raises:
        WorldError: the disk does not let one go.
    """
    with writing():
        for draft in out.glob(".step-*.part"):
            shutil.rmtree(draft, ignore_errors=True)
    linked = {path.resolve() for path in out.iterdir() if path.is_symlink()}
    folders = sorted(path for path in out.glob("step-*") if path.is_dir())
    for folder in folders[:-kept]:
        if folder.resolve() not in linked:
            try:
                with writing():
                    shutil.rmtree(folder)
            except OSError as error:
                raise WorldError(
                    f"the old checkpoint {folder} could not be deleted ({error.strerror}): make"
                    " that possible and resume; the newer ones are as they were"
                ) from error


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return an optimizer's state as named tensors, ``<parameter>.<what>``."""
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{what}": torch.as_tensor(value)
        for number, values in state.items()
        for what, value in values.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put back what ``flatten_optimizer`` gave; the groups' settings stay the optimizer's own."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        number, _, what = name.partition(".")
        state.setdefault(int(number), {})[what] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _load(folder: Path, config: PretrainedConfig, attention: str) -> PreTrainedModel:
    try:
        model, report = AutoModelForQuestionAnswering.from_pretrained(
            folder,
            config=config,
            attn_implementation=attention,
            use_safetensors=True,
            local_files_only=True,
            dtype=torch.float32,  # else that of the file: half precision would train in it
            output_loading_info=True,
        )
    except (KeyError, OSError, RuntimeError, SafetensorError, ValueError) as error:
        raise UsageError(f"the weights of {folder.name} cannot be read: {error}") from error
    missing = sorted(name for name in report["missing_keys"] if not name.startswith(_HEAD))
    if missing:
        raise UsageError(
            f"the checkpoint {folder.name} lacks {len(missing)} weights that its config.json asks"
            f" for, such as {missing[0]}: save it whole"
        )
    loaded: PreTrainedModel = model
    return loaded


def _fetch(name: str) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=list(_NEEDED)))
    except Exception as error:
        kind = HubAwayError if _is_away(error) else UsageError
        raise kind(
            f"there is no folder {name}, and the hub gives no model of that name"
            f" ({type(error).__name__}): check the name and the network, or give a folder"
        ) from error


def _is_away(error: BaseException) -> bool:
    """Say whether the hub may answer another time: it refused nothing, and asking is allowed."""
    if constants.HF_HUB_OFFLINE:
        return False
    response = getattr(error, "response", None)
    if response is not None:
        return bool(response.status_code >= 500 or response.status_code == 429)
    return isinstance(error, OSError)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
