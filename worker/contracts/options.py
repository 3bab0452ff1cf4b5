"""What a job asks of the reader; fixed in its manifest, so that every batch is read alike."""

from dataclasses import dataclass

#: Rows of a model run that can be named; a larger run that crashes is blamed on none of them.
NAMED_ROWS = 64


@dataclass(frozen=True, slots=True)
class ReadingOptions:
    """The options that change answers.

    ``null_threshold`` is on the scale of null odds (logits): above it a row is unanswerable, and
    with None no row is. ``top_k`` is how many alternatives a row carries, 0 for none.
    """

    null_threshold: float | None
    top_k: int = 0
    max_answer_tokens: int = 30
    max_context_chars: int = 1_000_000


@dataclass(frozen=True, slots=True)
class ForwardPolicy:
    """The bounds of one model run: so many windows and so many tokens, padding included.

    One window a run is as fast as any batch on one thread, needs no padding, and keeps a row's
    answer free of its neighbours: the scales of dynamic int8 span a whole run.
    """

    max_windows: int = 1
    max_tokens: int = 16_384

    def __post_init__(self) -> None:
        """Refuse a bound that bounds nothing: no run is empty."""
        if min(self.max_windows, self.max_tokens) < 1:
            raise ValueError("a model run has at least one window and one token: raise its bounds")
