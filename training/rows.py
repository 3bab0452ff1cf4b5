"""A recipe's rows by their names: files found, read, drawn from, added to, split by passage."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

from training.augment import (
    ask_nearest_passages,
    swap_entities,
    swap_negations,
    swap_numbers,
)
from training.data import Labelled, find_new, load, passage_key, sample, split
from training.paraphrase import Paraphraser, Wording, paraphrase_rows
from training.recipe import (
    Augmented,
    FileTable,
    Made,
    Paraphrased,
    Recipe,
    list_files,
    list_paraphrases,
)
from training.wordnet import WordNet, find_wordnet, prove_wordnet
from worker.contracts.errors import InputError

#: What can follow a file's name.
SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")
_WAYS: dict[str, Callable[[Sequence[Labelled], int, int], list[Labelled]]] = {
    "nearest": ask_nearest_passages,
    "entities": swap_entities,
    "numbers": swap_numbers,
    "negations": swap_negations,
}


def make_unanswerable(made: Made | Augmented, rows: Sequence[Labelled]) -> list[Labelled]:
    """Make unanswerable rows from the answerable ones among these."""
    how = made.how if isinstance(made, Made) else str(type(made).__struct_config__.tag)
    return _WAYS[how]([row for row in rows if row.answers], made.rows, made.seed)


def open_paraphraser(table: Paraphrased) -> Paraphraser:
    """Return what says passages in other words.

    Raises:
        UsageError: WordNet is not installed, or not where the recipe says.
    """
    wording = Wording(table.share, frozenset(table.parts), table.senses)
    return Paraphraser(WordNet(_find_words(table)), wording)


def _find_words(table: Paraphrased) -> Path:
    return find_wordnet(None if table.wordnet is None else Path(table.wordnet))


def find_file(folder: Path, name: str) -> Path:
    """Return the file of that name, with or without its suffix, in a folder or a folder in it.

    Raises:
        InputError: there is none, or more than one.
    """
    places = [folder, *sorted(one for one in folder.glob("*") if one.is_dir())]
    endings = ("",) if name.endswith(SUFFIXES) else SUFFIXES
    found = [place / f"{name}{ending}" for place in places for ending in endings]
    found = [path for path in found if path.is_file()]
    if not found:
        raise InputError(
            f"there is no file {name} ({', '.join(SUFFIXES)}) in {folder} or a folder in it: give"
            " its place by --data-dir or SPANMILL_DATA"
        )
    if len(found) > 1:
        raise InputError(
            f"{found[0]} and {found[1]} have one name: name a file of the recipe by its folder or"
            " suffix too"
        )
    return found[0]


class Rows:
    """The rows that a recipe names, without those in held-out passages; each is read once."""

    def __init__(
        self, recipe: Recipe, folder: Path, say: Callable[[str], None] = lambda _: None
    ) -> None:
        """Take the folder of the data; nothing is read yet."""
        self._recipe, self._folder, self._say = recipe, folder, say
        self._known: dict[str, tuple[Labelled, ...]] = {}

    def find(self, names: Sequence[str]) -> dict[str, Path]:
        """Return the files behind names of rows, and those of the held-out rows.

        Raises:
            InputError: one is not there.
        """
        held_out = self._recipe.held_out
        wanted = dict.fromkeys(held_out.files)
        wanted |= {} if held_out.unread is None else {held_out.unread.of: None}
        wanted |= dict.fromkeys(list_files(self._recipe, names))
        return {name: self._find(name, self._recipe.data[name]) for name in wanted}

    def prove_words(self, names: Sequence[str]) -> dict[str, str]:
        """Return the digest of the WordNet behind each paraphrase among names of rows.

        Raises:
            UsageError: it is not installed, or not where the recipe says.
        """
        tables = {
            name: self._recipe.augment[name] for name in list_paraphrases(self._recipe, names)
        }
        return {
            f"wordnet of {name}": prove_wordnet(_find_words(table))
            for name, table in tables.items()
            if isinstance(table, Paraphrased)
        }

    def get(self, names: Sequence[str]) -> tuple[Labelled, ...]:
        """Return the rows of these names, one after another.

        Raises:
            InputError: a file cannot be read, or holds no usable row.
        """
        return tuple(row for name in names for row in self._get(name))

    @cached_property
    def held_out(self) -> tuple[Labelled, ...]:
        """The rows of the held-out passages, and of those that nothing reads."""
        return (*self._kept, *self._unread)

    @cached_property
    def _kept(self) -> tuple[Labelled, ...]:
        given = self._recipe.held_out
        rows = [row for name in given.files for row in self._read(name)]
        held_out = split(rows, given.share, given.seed).held_out
        if given.unanswerable is None:
            return held_out
        return (*held_out, *make_unanswerable(given.unanswerable, held_out))

    @cached_property
    def judges(self) -> tuple[Labelled, ...]:
        """The held-out rows that choose checkpoints: none of the unread ones."""
        given = self._recipe.held_out
        rows = _even_out(self._kept, given.seed) if given.even else self._kept
        if given.judge_rows is None:
            return rows
        return sample(rows, given.judge_rows, given.judge_seed)

    @cached_property
    def _unread(self) -> tuple[Labelled, ...]:
        given = self._recipe.held_out.unread
        if given is None:
            return ()
        data = self._recipe.data
        file = _stem(data[given.of].file or given.of)
        drawn = [name for name, table in data.items() if _stem(table.file or name) == file]
        read = {row.context for name in drawn for row in self._read(name)}
        read |= {row.context for row in self._kept}
        rows = load(self._find(given.of, data[given.of])).rows
        new = find_new({row.context for row in rows}, read)
        found = _even_out([row for row in rows if row.context in new], given.seed, given.rows)
        if not found:
            raise InputError(
                f"held_out.unread: no new passage of {file} with questions of both kinds is left"
                " beside what the sets draw: draw fewer rows of it, or name another set"
            )
        return found

    @cached_property
    def _held_keys(self) -> frozenset[str]:
        contexts = {row.context for row in self.held_out}
        return frozenset(passage_key(context) for context in contexts)

    def _get(self, name: str) -> tuple[Labelled, ...]:
        if name not in self._known:
            self._known[name] = self._make(name)
        return self._known[name]

    def _make(self, name: str) -> tuple[Labelled, ...]:
        if name in self._recipe.mixtures:
            return self.get(self._recipe.mixtures[name])
        if name in self._recipe.augment:
            how = self._recipe.augment[name]
            rows = self.get(how.of)
            if isinstance(how, Paraphrased):
                paraphraser = open_paraphraser(how)
                return self._spare(paraphrase_rows(rows, how.rows, paraphraser, how.seed))
            without = _list_contexts(rows, answered=False) if how.unasked else frozenset()
            apart = [row for row in rows if row.context not in without]
            return self._spare(make_unanswerable(how, apart))
        return self._spare(self._read(name))

    def _spare(self, rows: Sequence[Labelled]) -> tuple[Labelled, ...]:
        """Return the rows whose passage is not held out."""
        contexts = {row.context for row in rows}
        held = {context for context in contexts if passage_key(context) in self._held_keys}
        return tuple(row for row in rows if row.context not in held)

    def _read(self, name: str) -> tuple[Labelled, ...]:
        """Return a file's rows, drawn from where the recipe says so, held-out ones among them."""
        key = f"file {name}"  # a mixture may not have this name
        if key not in self._known:
            table = self._recipe.data[name]
            loaded = load(self._find(name, table))
            dropped = f", {loaded.dropped} dropped" if loaded.dropped else ""
            if not loaded.rows:
                raise InputError(f"the file of {name} holds no usable row{dropped}: give another")
            rows = loaded.rows
            if table.rows is not None:
                rows = sample(rows, table.rows, table.seed)
            self._say(f"{name}: {len(rows)} of {len(loaded.rows)} rows{dropped}")
            self._known[key] = rows
        return self._known[key]

    def _find(self, name: str, table: FileTable) -> Path:
        return find_file(self._folder, name if table.file is None else table.file)


def _even_out(rows: Sequence[Labelled], seed: int, most: int | None = None) -> tuple[Labelled, ...]:
    """Return as many rows with an answer as without, of passages that have both."""
    both = _list_contexts(rows, answered=True) & _list_contexts(rows, answered=False)
    kinds = [
        [row for row in rows if row.context in both and bool(row.answers) == answered]
        for answered in (True, False)
    ]
    count = min(map(len, kinds))
    if most is not None:
        count = min(count, most // 2)
    return tuple(row for kind in kinds for row in sample(kind, count, seed))


def _stem(name: str) -> str:
    """Return a file's name without folder and suffixes, of which a recipe may give any."""
    return name.rpartition("/")[2].partition(".")[0]


def _list_contexts(rows: Sequence[Labelled], *, answered: bool) -> frozenset[str]:
    """Return the passages of the rows with, or of those without an answer."""
    return frozenset(row.context for row in rows if bool(row.answers) == answered)
