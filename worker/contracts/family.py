"""The model families, how each joins question and context, and the sizes of their windows."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Family:
    """How a model family joins a question and a context.

    ``[cls] question [sep] × separators [context] [sep]``; ``segments`` says whether the context's
    tokens have type 1 (families without token types never get the array).
    """

    name: str
    cls: str
    sep: str
    pad: str
    separators: int
    segments: bool


_BERT = {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "separators": 1, "segments": True}
_ROBERTA = {"cls": "<s>", "sep": "</s>", "pad": "<pad>", "separators": 2, "segments": False}

#: Families by the ``model_type`` of their checkpoints. MiniLM and TinyBERT say ``bert`` there.
FAMILIES = {
    name: Family(name=name, **shape)  # type: ignore[arg-type]
    for name, shape in {
        "bert": _BERT,
        "distilbert": _BERT,
        "minilm": _BERT,
        "mobilebert": _BERT,
        "tinybert": _BERT,
        "roberta": _ROBERTA,
        "xlm-roberta": _ROBERTA,
    }.items()
}


@dataclass(frozen=True, slots=True)
class WindowSizes:
    """The three lengths that cut texts into windows, all in tokens.

    ``overlap_tokens`` is what two neighbouring windows share (never "stride", which means step in
    one library and overlap in another).
    """

    max_window_tokens: int = 384
    overlap_tokens: int = 128
    max_question_tokens: int = 64

    def __post_init__(self) -> None:
        """Refuse sizes that leave a window of the longest question no step forward."""
        smallest = self.max_question_tokens + 4 + self.overlap_tokens + 1
        if min(self.max_question_tokens, self.overlap_tokens + 1) < 1:
            raise ValueError("window sizes must be positive: raise max_question_tokens")
        if self.max_window_tokens < smallest:
            raise ValueError(
                f"max_window_tokens is {self.max_window_tokens} but questions of"
                f" {self.max_question_tokens} and overlaps of {self.overlap_tokens} tokens need"
                f" {smallest}: raise it or lower those"
            )
