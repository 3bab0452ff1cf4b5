"""Opens a reader of the files that a model is, on one thread."""

from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from worker.contracts.bundle import Bundle
from worker.contracts.errors import BundleError
from worker.contracts.family import FAMILIES, WindowSizes
from worker.contracts.options import ForwardPolicy, ReadingOptions
from worker.contracts.verdict import Calibration
from worker.reading.reader import Reader
from worker.reading.windows import Encoder
from worker.session import OnnxScorer


@dataclass(frozen=True, slots=True)
class Graph:
    """The files that read, how, and in which language; small enough to be sent to a process."""

    model: Path
    tokenizer: Path
    family: str
    sizes: WindowSizes
    language: str


def graph_of(bundle: Bundle) -> Graph:
    """Return a bundle's graph."""
    told = bundle.manifest
    return Graph(bundle.model, bundle.tokenizer, told.family, told.sizes, told.language)


def open_reader(
    bundle: Bundle,
    reading: ReadingOptions,
    forward: ForwardPolicy | None = None,
    provider: str = "cpu",
) -> Reader:
    """Return a reader of a checked bundle.

    Raises:
        BundleError: the tokenizer or the graph cannot be loaded.
    """
    return open_graph(graph_of(bundle), bundle.manifest.calibration, reading, forward, provider)


def open_graph(
    graph: Graph,
    calibration: Calibration,
    reading: ReadingOptions,
    forward: ForwardPolicy | None = None,
    provider: str = "cpu",
) -> Reader:
    """Return a reader of a graph that may be in no bundle yet.

    Raises:
        BundleError: the tokenizer or the graph cannot be loaded.
    """
    try:
        tokenizer = Tokenizer.from_file(str(graph.tokenizer))
    except Exception as error:  # the library raises a bare Exception
        raise BundleError(f"{graph.tokenizer} cannot be loaded: get the bundle again") from error
    return Reader(
        Encoder(tokenizer, FAMILIES[graph.family], graph.sizes),
        OnnxScorer(graph.model, provider),
        calibration,
        reading,
        ForwardPolicy() if forward is None else forward,
    )
