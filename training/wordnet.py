"""Reads WordNet's database files: which lemmas there are, and which mean the same.

Source: the manual pages wndb(5) and morphy(7) of WordNet 3.0 (Fellbaum 1998).
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from worker.contracts.bundle import prove_file
from worker.contracts.errors import InputError, UsageError

#: Where Debian and NLTK put the files; NLTK has one folder a version.
DEBIAN = Path("/usr/share/wordnet")
NLTK = tuple(
    Path(folder) / "nltk_data/corpora"
    for folder in (Path.home(), "/usr/share", "/usr/local/share", "/usr/lib", "/usr/local/lib")
)
_MARKER = re.compile(r"\([a-z]+\)$")


class Part(StrEnum):
    """The parts of speech, as the files' names end."""

    NOUN = "noun"
    VERB = "verb"
    ADJECTIVE = "adj"
    ADVERB = "adv"


@dataclass(frozen=True, slots=True)
class Entry:
    """A lemma as one part of speech; its senses by falling frequency, as places in the data.

    ``tagged`` is how many of the senses occur in the texts that WordNet's makers annotated.
    """

    lemma: str
    part: Part
    tagged: int
    senses: tuple[int, ...]


class WordNet:
    """One folder of database files; each is read when it is first asked."""

    def __init__(self, folder: Path) -> None:
        """Take the folder that ``find_wordnet`` gave."""
        self._folder = folder
        self._data: dict[Part, bytes] = {}

    def find(self, lemma: str, part: Part) -> Entry | None:
        """Return the entry of a lemma in lower case, None if there is none.

        Raises:
            InputError: the index is damaged.
        """
        line = self._indexes[part].get(lemma)
        if line is None:
            return None
        fields = line.split()
        try:
            count, pointers = int(fields[1]), int(fields[2])
            tagged = int(fields[4 + pointers])
            senses = tuple(int(one) for one in fields[5 + pointers :])
        except (ValueError, IndexError) as error:
            raise self._damaged(f"index.{part}", lemma) from error
        if len(senses) != count:
            raise self._damaged(f"index.{part}", lemma)
        return Entry(lemma, part, tagged, senses)

    def list_synonyms(self, entry: Entry, senses: int = 1) -> tuple[str, ...]:
        """Return the other words of an entry's most frequent senses, as they are written.

        A sense in which the lemma itself is written with a capital is a name, and gives none.

        Raises:
            InputError: the data does not fit the index.
        """
        found: dict[str, None] = {}
        for place in entry.senses[:senses]:
            words = self._read_words(entry, place)
            if entry.lemma in words:
                found |= dict.fromkeys(word for word in words if word != entry.lemma)
        return tuple(found)

    def find_irregular(self, form: str, part: Part) -> tuple[str, ...]:
        """Return the lemmas of a form that no rule explains."""
        return self._exceptions[part].get(form, ())

    def list_irregular(self, lemma: str, part: Part) -> frozenset[str]:
        """Return the forms of a lemma that WordNet lists, because its rules do not explain them."""
        return self._irregular[part].get(lemma, frozenset())

    @cached_property
    def _indexes(self) -> Mapping[Part, Mapping[str, str]]:
        return {part: dict(self._split_lines(f"index.{part}")) for part in Part}

    @cached_property
    def _exceptions(self) -> Mapping[Part, Mapping[str, tuple[str, ...]]]:
        found: dict[Part, dict[str, tuple[str, ...]]] = {}
        for part in Part:
            lines: defaultdict[str, list[str]] = defaultdict(list)
            for form, lemmas in self._split_lines(f"{part}.exc"):
                lines[form] += lemmas.split()
            found[part] = {form: tuple(lemmas) for form, lemmas in lines.items()}
        return found

    @cached_property
    def _irregular(self) -> Mapping[Part, Mapping[str, frozenset[str]]]:
        found: dict[Part, dict[str, frozenset[str]]] = {}
        for part, exceptions in self._exceptions.items():
            forms: defaultdict[str, set[str]] = defaultdict(set)
            for form, lemmas in exceptions.items():
                for lemma in lemmas:
                    forms[lemma].add(form)
            found[part] = {lemma: frozenset(listed) for lemma, listed in forms.items()}
        return found

    def _split_lines(self, name: str) -> list[tuple[str, str]]:
        """Return the first word of each line and the rest; the licence's lines are indented."""
        lines = self._read(name).decode("latin-1").splitlines()
        pairs = (line.partition(" ") for line in lines if line.strip() and line[0] != " ")
        return [(first, rest) for first, _, rest in pairs]

    def _read_words(self, entry: Entry, place: int) -> list[str]:
        """Return the words of the set of synonyms at a place, which its line repeats."""
        if entry.part not in self._data:
            self._data[entry.part] = self._read(f"data.{entry.part}")
        data = self._data[entry.part]
        end = data.find(b"\n", place)
        fields = data[place : end if end >= 0 else None].decode("latin-1").split()
        try:
            stated, count = int(fields[0]), int(fields[3], 16)
            words = [fields[4 + 2 * number] for number in range(count)]
        except (ValueError, IndexError) as error:
            raise self._damaged(f"data.{entry.part}", entry.lemma) from error
        if stated != place:
            raise self._damaged(f"data.{entry.part}", entry.lemma)
        return [_MARKER.sub("", word) for word in words]

    def _read(self, name: str) -> bytes:
        try:
            return (self._folder / name).read_bytes()
        except OSError as error:
            raise InputError(
                f"WordNet's file {self._folder / name} cannot be read ({error.strerror}): install"
                " WordNet again"
            ) from error

    def _damaged(self, name: str, lemma: str) -> InputError:
        return InputError(
            f"WordNet's file {self._folder / name} is damaged at the word {lemma!r}: install"
            " WordNet again"
        )


def find_wordnet(
    folder: Path | None = None, debian: Path = DEBIAN, nltk: Sequence[Path] = NLTK
) -> Path:
    """Return the folder of the database files: the given one, Debian's, or one of NLTK's.

    Raises:
        UsageError: there is none.
    """
    if folder is not None:
        if not _has_files(folder):
            raise UsageError(
                f"{folder} holds no WordNet database (index.noun, data.noun and so on): give the"
                " folder of one"
            )
        return folder
    corpora = [found for place in nltk for found in sorted(place.glob("wordnet*"))]
    for place in (debian, *corpora):
        if _has_files(place):
            return place
    raise UsageError(
        "WordNet is not installed here: install Debian's package wordnet-base or NLTK's corpus"
        " wordnet, or name the folder of its files"
    )


def prove_wordnet(folder: Path) -> str:
    """Return the digest of all that is read of a WordNet."""
    proofs = "".join(prove_file(path).sha256 for path in _list_files(folder))
    return hashlib.sha256(proofs.encode()).hexdigest()


def _has_files(folder: Path) -> bool:
    return all(path.is_file() for path in _list_files(folder))


def _list_files(folder: Path) -> list[Path]:
    names = [(f"index.{part}", f"data.{part}", f"{part}.exc") for part in Part]
    return [folder / name for three in names for name in three]
