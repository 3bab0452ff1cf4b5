"""The reader: rows in are rows out, whatever they are, and grouping changes no answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import processors

from tests import reference
from worker.contracts.errors import RowError, WorldError
from worker.contracts.family import FAMILIES, WindowSizes
from worker.contracts.options import ForwardPolicy, ReadingOptions
from worker.contracts.records import Answer, Example, Status
from worker.contracts.verdict import Calibration, Logistic, judge
from worker.reading.reader import ForwardBatch, Reader, cut_forward_batches, pad_windows
from worker.reading.windows import Encoded, Encoder, Window

BuildEncoder = Callable[[str, WindowSizes], Encoder]

CALIBRATION = Calibration(
    answer=Logistic(bias=0.5, null_odds=-0.4, margin=0.2),
    abstention=Logistic(bias=-0.5, null_odds=0.4, margin=-0.1),
)
OPTIONS = ReadingOptions(null_threshold=0.0)

#: Texts that broke something once, here or elsewhere.
HARD = [
    "", " ", "\t\n", "\x00", "\x00a", "\u200b", "a", "the river\x00in the\tsea", "e\u0301" * 50,
    "👩‍👩‍👧 the river 😀", "中国的河在哪里", "نهر مصر", "한국", "नदी", "[SEP] [CLS]",
    "</s>", "x" * 400, "\ud800", "the \udfff river",
]  # fmt: skip
words = st.sampled_from(["the", "river", "in", "was", "é", "水", "😀", ".", "\n"])
texts = st.one_of(
    st.sampled_from(HARD), st.text(max_size=20), st.lists(words, max_size=60).map(" ".join)
)
rows = st.tuples(texts, texts, st.sampled_from([None, None, None, "the question is null"]))


@dataclass
class HashScorer:
    """Logits that follow from each window's own tokens and from nothing else.

    Raises for windows that hold the token ``poison``, like a graph with an id out of its range.
    """

    takes_mask: bool = True
    poison: int = -1
    runs: list[ForwardBatch] = field(default_factory=list)

    def score(self, batch: ForwardBatch) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        self.runs.append(batch)
        if (batch.input_ids == self.poison).any():
            raise RuntimeError("index out of range")
        starts = np.full(batch.input_ids.shape, 99.0, dtype=np.float32)
        ends = starts.copy()
        for row, length in enumerate(batch.attention_mask.sum(axis=1)):
            keys = batch.input_ids[row, :length] * 31 + batch.token_type_ids[row, :length] * 7
            keys = keys + np.arange(length) * 13 + keys.sum()
            starts[row, :length] = keys * 7919 % 1009 / 100
            ends[row, :length] = keys * 104_729 % 997 / 100
        return starts, ends


def nothing(rows: Sequence[int]) -> None:
    """Hear which rows come next."""


def example(question: str, context: str, row: int = 0, **more: str | None) -> Example:
    return Example(row, f"id{row % 3}", question, context, **more)


def make_reader(
    encoder: Encoder,
    scorer: HashScorer | None = None,
    options: ReadingOptions = OPTIONS,
    policy: ForwardPolicy | None = None,
) -> Reader:
    return Reader(
        encoder,
        HashScorer() if scorer is None else scorer,
        CALIBRATION,
        options,
        ForwardPolicy() if policy is None else policy,
    )


def answer_all(reader: Reader, examples: Sequence[Example]) -> list[Answer]:
    encoded = reader.encode(examples, nothing)
    scored = reader.score(encoded, nothing)
    assert len(encoded) == len(scored) == len(examples)
    return [reader.decode(*one) for one in zip(examples, encoded, scored, strict=True)]


def answer_one(reader: Reader, one: Example) -> Answer:
    (answer,) = answer_all(reader, [one])
    return answer


def check_answer(one: Example, answer: Answer) -> None:
    """Every law that one answer obeys, whatever the row was."""
    assert (answer.row, answer.id) == (one.row, one.id)
    assert (answer.error is not None) == (answer.status is Status.ERROR)
    spans = [span for span in (answer.best, *answer.alternatives) if span is not None]
    for span in spans:
        assert one.context[span.start_char : span.end_char] == span.text
        assert span.text.strip() == span.text != ""
    if answer.status is Status.ANSWERED:
        assert answer.best is not None
    if answer.status is Status.ERROR:
        assert (answer.best, answer.confidence, answer.windows) == (None, None, 0)
    else:
        assert answer.confidence is not None
        assert 0.0 <= answer.confidence <= 1.0
        assert (answer.best is None) == (answer.null_odds is None)


@given(batch=st.lists(rows, max_size=8), top_k=st.integers(0, 4), windows=st.integers(1, 5))
def test_rows_in_are_rows_out_and_every_span_lies_in_its_context(
    encoder: Encoder, batch: list[tuple[str, str, str | None]], top_k: int, windows: int
) -> None:
    examples = [example(question, context, number, fault=fault)
                for number, (question, context, fault) in enumerate(batch)]  # fmt: skip
    options = replace(OPTIONS, top_k=top_k)
    reader = make_reader(encoder, HashScorer(), options, ForwardPolicy(max_windows=windows))
    for one, answer in zip(examples, answer_all(reader, examples), strict=True):
        check_answer(one, answer)
        assert answer == answer_one(reader, one)


@given(
    question=st.sampled_from(["where is it", "?", "who wrote the river"]),
    context=st.lists(words, min_size=1, max_size=90).map(" ".join),
    threshold=st.floats(-25, 10),
    windows=st.integers(1, 5),
)
def test_answers_are_those_of_the_slow_reference(
    encoder: Encoder, question: str, context: str, threshold: float, windows: int
) -> None:
    options = ReadingOptions(null_threshold=threshold, top_k=3)
    reader = make_reader(encoder, options=options, policy=ForwardPolicy(windows))
    answer = answer_one(reader, example(question, context))
    (encoded,) = reader.encode([example(question, context)], nothing)
    assert isinstance(encoded, Encoded)
    scores = [score_slowly(encoder, window) for window in encoded.windows]
    passage = encoded.passage
    offsets = list(zip(passage.starts.tolist(), passage.ends.tolist(), strict=True))
    found = reference.list_answers(context, offsets, reference.list_candidates(scores, 30))
    if not found:
        return
    assert [(one.text, one.start_char, one.end_char, one.score) for one in answer.alternatives] == [
        (one.text, one.start, one.end, one.score) for one in found[:3]
    ]
    null = reference.null_score(scores)
    assert answer.null_odds is not None
    assert answer.null_odds == pytest.approx(null - found[0].score, rel=1e-6, abs=1e-5)
    if abs(answer.null_odds - threshold) > 1e-4:
        predicted = reference.predict(null, found[0], threshold)
        assert (answer.status is Status.ANSWERED) == (predicted != "")


def score_slowly(encoder: Encoder, window: Window) -> reference.WindowScores:
    """Score a window alone, with no reader around."""
    starts, ends = HashScorer().score(pad_windows([window], encoder.pad))
    return reference.WindowScores(
        reference.Slice(window.first_token, window.first_token + window.context_tokens),
        window.context_start,
        starts[0].tolist(),
        ends[0].tolist(),
    )


@pytest.mark.parametrize("mask", [True, False])
@given(batch=st.lists(rows, max_size=8), windows=st.integers(2, 7), tokens=st.integers(1, 120))
def test_forward_batches_give_the_answers_of_one_window_a_run(
    encoder: Encoder,
    batch: list[tuple[str, str, str | None]],
    windows: int,
    tokens: int,
    *,
    mask: bool,
) -> None:
    examples = [example(question, context, number)
                for number, (question, context, _) in enumerate(batch)]  # fmt: skip
    policy = ForwardPolicy(windows, tokens)
    scorer = HashScorer(takes_mask=mask)
    grouped = answer_all(make_reader(encoder, scorer, policy=policy), examples)
    assert grouped == answer_all(make_reader(encoder), examples)
    for run in scorer.runs:
        assert len(run.input_ids) <= windows
        assert run.input_ids.size <= tokens or len(run.input_ids) == 1
        assert mask or run.attention_mask.all()


@given(
    lengths=st.lists(st.integers(1, 20), max_size=30),
    policy=st.builds(ForwardPolicy, st.integers(1, 6), st.integers(1, 60)),
    mask=st.booleans(),
)
def test_every_window_runs_once_within_the_bounds(
    lengths: list[int], policy: ForwardPolicy, *, mask: bool
) -> None:
    windows = [Window(np.ones(size, np.int64), np.ones(size, np.int64), 0, 0, 0)
               for size in lengths]  # fmt: skip
    groups = list(cut_forward_batches(windows, policy, mask=mask))
    assert sorted(number for group in groups for number in group) == list(range(len(lengths)))
    for group in groups:
        sizes = {lengths[number] for number in group}
        assert len(group) <= policy.max_windows
        assert len(group) * max(sizes) <= policy.max_tokens or len(group) == 1
        assert mask or len(sizes) == 1


def test_forward_batches_are_as_full_as_their_bounds_allow() -> None:
    windows = [Window(np.ones(4, np.int64), np.ones(4, np.int64), 0, 0, 0)] * 7
    by_count = cut_forward_batches(windows, ForwardPolicy(3, 1000), mask=False)
    by_tokens = cut_forward_batches(windows, ForwardPolicy(100, 8), mask=True)
    assert [len(group) for group in by_count] == [3, 3, 1]
    assert [len(group) for group in by_tokens] == [2, 2, 2, 1]


def test_forward_batches_take_windows_by_length() -> None:
    windows = [Window(np.ones(size, np.int64), np.ones(size, np.int64), 0, 0, 0)
               for size in (9, 2, 8, 3)]  # fmt: skip
    groups = list(cut_forward_batches(windows, ForwardPolicy(2, 1000), mask=True))
    assert groups == [[1, 3], [2, 0]]
    alone = list(cut_forward_batches(windows, ForwardPolicy(1, 1000), mask=True))
    assert alone == [[0], [1], [2], [3]]


def test_padding_is_masked_and_counted(encoder: Encoder) -> None:
    reader = make_reader(encoder, policy=ForwardPolicy(2, 1000))
    encoded = reader.encode(
        [example("who", "the river"), example("who", "the river in the")], nothing
    )
    windows = [one.windows[0] for one in encoded if isinstance(one, Encoded)]
    batch = pad_windows(windows, encoder.pad)
    difference = len(windows[1]) - len(windows[0])
    assert batch.input_ids[0, len(windows[0]) :].tolist() == [encoder.pad] * difference
    assert batch.attention_mask.sum(axis=1).tolist() == [len(window) for window in windows]
    assert batch.token_type_ids[0, len(windows[0]) :].sum() == 0
    scored = reader.score(encoded, nothing)
    counted = [one.padding_tokens for one in scored if not isinstance(one, RowError)]
    assert counted == [difference, 0]


@pytest.mark.parametrize("policy", [ForwardPolicy(1), ForwardPolicy(8)])
def test_a_window_that_fails_costs_its_own_row_and_no_other(
    encoder: Encoder, policy: ForwardPolicy
) -> None:
    poison = int(encoder.tokenize_passage("%").ids[-1])
    good = [example("where is it", "the river in the sea " * 9, row) for row in (0, 2, 4)]
    bad = [example("where", "the river in % the sea " * 9, 1), example("%", "the river", 3)]
    examples = sorted(good + bad, key=lambda one: one.row)
    scorer = HashScorer(poison=poison)
    answers = answer_all(make_reader(encoder, scorer, policy=policy), examples)
    assert [one.status is Status.ERROR for one in answers] == [False, True, False, True, False]
    clean = answer_all(make_reader(encoder, policy=policy), good)
    assert [one for one in answers if one.error is None] == clean
    assert answers[1].error == "the row could not be read (RuntimeError): check its text"


def test_a_row_of_several_windows_fails_when_one_of_them_does(
    build_encoder: BuildEncoder,
) -> None:
    encoder = build_encoder("bert", WindowSizes(24, 5, 8))
    poison = int(encoder.tokenize_passage("%").ids[0])
    reader = make_reader(encoder, HashScorer(poison=poison))
    row = example("where", "the river " * 40 + "%" + " the river" * 40)
    assert answer_one(reader, row).status is Status.ERROR


def test_a_panic_of_the_tokenizer_costs_its_own_row_and_no_other(
    build_encoder: BuildEncoder, capfd: pytest.CaptureFixture[str]
) -> None:
    encoder = build_encoder("bert", WindowSizes())
    # An overlap as long as the window: the library panics, past `except Exception`.
    encoder._tokenizer.post_processor = processors.ByteLevel()
    encoder._tokenizer.enable_truncation(8, stride=8)
    reader = make_reader(encoder)
    long = example("where", "the river in the sea of the river in it", 1)
    examples = [example("where", "the river", 0), long, example("who", "in it", 2)]
    answers = answer_all(reader, examples)
    assert [one.status is Status.ERROR for one in answers] == [False, True, False]
    assert answers[1].error == "the row could not be read (PanicException): check its text"
    assert "panicked" in capfd.readouterr().err


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, MemoryError, WorldError])
def test_what_is_not_the_rows_fault_is_no_rows_error(
    encoder: Encoder, stop: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = HashScorer()

    def interrupt(batch: ForwardBatch) -> None:
        raise stop

    monkeypatch.setattr(scorer, "score", interrupt)
    with pytest.raises(stop):
        answer_all(make_reader(encoder, scorer), [example("where", "the river")])


@pytest.mark.parametrize("question", ["", "  ", "\n\t\u3000"])
def test_a_blank_question_is_an_error_that_says_so(encoder: Encoder, question: str) -> None:
    answer = answer_one(make_reader(encoder), example(question, "the river"))
    assert answer.error == "the question is empty: give it a text"


@pytest.mark.parametrize("context", ["", " ", "\n\t \n"])
@pytest.mark.parametrize("threshold", [0.0, None])
def test_a_blank_context_certainly_holds_no_answer(
    encoder: Encoder, context: str, threshold: float | None
) -> None:
    options = ReadingOptions(null_threshold=threshold)
    answer = answer_one(make_reader(encoder, options=options), example("where", context))
    assert (answer.status, answer.confidence) == (Status.UNANSWERABLE, 1.0)
    assert (answer.best, answer.null_odds, answer.margin) == (None, None, None)


def test_a_fault_of_the_input_is_the_rows_error(encoder: Encoder) -> None:
    row = example("", "", fault="the context is null: give it a text", warning="the id is null")
    answer = answer_one(make_reader(encoder), row)
    assert (answer.error, answer.warning) == (row.fault, row.warning)


@pytest.mark.parametrize(("question", "context"), [("\ud800", "the river"), ("who", "a \udfff b")])
def test_a_lone_surrogate_is_its_rows_error(encoder: Encoder, question: str, context: str) -> None:
    answer = answer_one(make_reader(encoder), example(question, context))
    assert answer.status is Status.ERROR


def test_a_question_of_a_thousand_tokens_is_cut_with_a_warning(build_encoder: BuildEncoder) -> None:
    encoder = build_encoder("bert", WindowSizes())
    row = example("where " * 1_000, "the river in the sea", warning="the id is null")
    answer = answer_one(make_reader(encoder), row)
    assert answer.warning == "the id is null; the question was cut after 64 tokens"
    cut = answer_one(make_reader(encoder), example("where " * 64, "the river in the sea"))
    assert (answer.best, answer.null_odds, cut.warning) == (cut.best, cut.null_odds, None)


@pytest.mark.parametrize(
    "context", ["e" + "\u0301" * 10_000, "x" * 100_000, "😀" * 20_000, "\x00" * 5_000 + "a"]
)
def test_monstrous_contexts_are_answered_inside_themselves(encoder: Encoder, context: str) -> None:
    row = example("where", context)
    answer = answer_one(make_reader(encoder), row)
    check_answer(row, answer)
    assert answer.best is not None


def test_a_context_beyond_the_limit_is_read_up_to_it_with_a_warning(encoder: Encoder) -> None:
    options = replace(OPTIONS, max_context_chars=100)
    row = example("where", "the river " * 20)
    answer = answer_one(make_reader(encoder, options=options), row)
    exact = answer_one(make_reader(encoder, options=options), example("where", "the river " * 10))
    assert answer.warning == "the context was read up to character 100 only"
    assert exact.warning is None
    assert replace(answer, warning=None) == exact


def test_a_passage_that_repeats_is_tokenized_once(encoder: Encoder) -> None:
    examples = [example(question, "the river " * 40, row)
                for row, question in enumerate(["who", "where"])]  # fmt: skip
    first, second = make_reader(encoder).encode(examples, nothing)
    assert isinstance(first, Encoded)
    assert isinstance(second, Encoded)
    assert first.passage is second.passage


def test_the_caller_hears_which_rows_come_next(encoder: Encoder) -> None:
    examples = [example("who", "the river"), example("", "x"), example("who", "the sea " * 40)]
    heard: list[Sequence[int]] = []
    reader = make_reader(encoder, policy=ForwardPolicy(2, 1000))
    encoded = reader.encode(examples, heard.append)
    assert heard == [[0], [1], [2]]
    heard.clear()
    reader.score(encoded, heard.append)
    assert {number for numbers in heard for number in numbers} == {0, 2}
    assert [0, 2] in heard
    heard.clear()
    reader.score(encoded, heard.append, alone=True)
    assert [0, 2] not in heard


@given(threshold=st.floats(-20, 20), context=texts)
def test_a_rows_verdict_is_that_of_its_stored_numbers(
    encoder: Encoder, threshold: float, context: str
) -> None:
    options = ReadingOptions(null_threshold=threshold, top_k=2)
    answer = answer_one(make_reader(encoder, options=options), example("where", context))
    if answer.status is Status.ERROR:
        return
    odds, margin = (
        None if value is None else float(np.float32(value))
        for value in (answer.null_odds, answer.margin)
    )
    verdict = judge(odds, margin, threshold, CALIBRATION)
    assert (answer.status, answer.confidence) == (verdict.status, verdict.confidence)


def test_alternatives_begin_with_the_best_and_the_margin_is_to_the_second(encoder: Encoder) -> None:
    row = example("where", "the river in the sea was in it.")
    answers = [
        answer_one(make_reader(encoder, options=replace(OPTIONS, top_k=top_k)), row)
        for top_k in (0, 1, 3)
    ]
    none, one, three = (answer.alternatives for answer in answers)
    assert (len(none), len(one), len(three)) == (0, 1, 3)
    assert one[0] == three[0] == answers[0].best
    assert len({(answer.best, answer.null_odds, answer.margin) for answer in answers}) == 1
    assert answers[0].margin == pytest.approx(three[0].score - three[1].score, abs=1e-5)


def test_a_model_without_numbers_for_an_answer_says_so(encoder: Encoder) -> None:
    class Broken(HashScorer):
        def score(self, batch: ForwardBatch) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            starts, ends = super().score(batch)
            return starts * np.nan, ends

    answer = answer_one(make_reader(encoder, Broken()), example("where", "the river"))
    assert answer.error is not None
    assert "not finite" in answer.error


def test_padding_never_reaches_a_rows_logits(encoder: Encoder) -> None:
    # HashScorer gives padding the highest logits of all: taken in, they would win.
    examples = [example("who", "the river"), example("who", "the sea in the river " * 9)]
    reader = make_reader(encoder, policy=ForwardPolicy(9, 10_000))
    scored = reader.score(reader.encode(examples, nothing), nothing)
    for one in scored:
        assert not isinstance(one, RowError)
        assert all((logits.start < 99).all() and (logits.end < 99).all() for logits in one.logits)


def test_families_differ_only_in_their_joints() -> None:
    assert {name: (one.separators, one.segments) for name, one in FAMILIES.items()} == {
        "bert": (1, True), "distilbert": (1, True), "minilm": (1, True), "mobilebert": (1, True),
        "tinybert": (1, True), "roberta": (2, False), "xlm-roberta": (2, False),
    }  # fmt: skip
