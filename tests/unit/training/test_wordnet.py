"""WordNet's files: found, read, and refused when they are not whole."""

from pathlib import Path

import pytest

from tests.small_wordnet import write_wordnet
from training.wordnet import Part, WordNet, find_wordnet
from worker.contracts.errors import InputError, UsageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_wordnet(tmp_path / "wordnet")


def list_synonyms(folder: Path, lemma: str, part: Part, senses: int = 1) -> tuple[str, ...]:
    wordnet = WordNet(folder)
    entry = wordnet.find(lemma, part)
    assert entry is not None
    return wordnet.list_synonyms(entry, senses)


def test_synonyms_are_those_of_the_part_of_speech(folder: Path) -> None:
    assert list_synonyms(folder, "record", Part.NOUN) == ("disc",)
    assert list_synonyms(folder, "record", Part.VERB) == ("tape",)
    assert WordNet(folder).find("record", Part.ADVERB) is None


def test_further_senses_are_asked_for(folder: Path) -> None:
    assert list_synonyms(folder, "stone", Part.NOUN) == ("rock",)
    assert list_synonyms(folder, "stone", Part.NOUN, senses=2) == ("rock", "pit", "kernel")


def test_markers_of_adjectives_are_no_part_of_the_word(folder: Path) -> None:
    assert list_synonyms(folder, "able", Part.ADJECTIVE) == ("capable",)
    assert list_synonyms(folder, "capable", Part.ADJECTIVE) == ("able",)


def test_names_have_no_synonyms(folder: Path) -> None:
    assert list_synonyms(folder, "paris", Part.NOUN) == ()


def test_an_entry_tells_how_many_of_its_senses_were_annotated(folder: Path) -> None:
    wordnet = WordNet(folder)
    found = [wordnet.find("record", part) for part in (Part.NOUN, Part.VERB)]
    assert [entry.tagged for entry in found if entry is not None] == [1, 0]


def test_the_given_folder_is_taken_before_debians_and_that_before_nltks(tmp_path: Path) -> None:
    debian, corpora = tmp_path / "debian", tmp_path / "corpora"
    nltk = write_wordnet(corpora / "wordnet31")
    given = write_wordnet(tmp_path / "given")
    assert find_wordnet(None, debian, [tmp_path / "none", corpora]) == nltk
    write_wordnet(debian)
    assert find_wordnet(None, debian, [corpora]) == debian
    assert find_wordnet(given, debian, [corpora]) == given


def test_without_any_it_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"wordnet-base or NLTK's corpus wordnet"):
        find_wordnet(None, tmp_path / "debian", [tmp_path])
    with pytest.raises(UsageError, match="holds no WordNet database"):
        find_wordnet(tmp_path, tmp_path, [])


def test_a_folder_that_lacks_a_file_is_not_found(folder: Path) -> None:
    (folder / "verb.exc").unlink()
    with pytest.raises(UsageError, match="holds no WordNet database"):
        find_wordnet(folder)


def test_data_of_another_version_than_the_index_is_refused(folder: Path) -> None:
    (folder / "data.noun").write_text(" " + (folder / "data.noun").read_text())
    with pytest.raises(InputError, match=r"data\.noun is damaged at the word 'mill'"):
        list_synonyms(folder, "mill", Part.NOUN)


def test_data_that_was_cut_off_is_refused(folder: Path) -> None:
    (folder / "data.noun").write_bytes((folder / "data.noun").read_bytes()[:60])
    with pytest.raises(InputError, match=r"data\.noun is damaged at the word 'house'"):
        list_synonyms(folder, "house", Part.NOUN)


def test_an_index_line_that_was_cut_off_is_refused(folder: Path) -> None:
    index = folder / "index.adv"
    index.write_text(index.read_text().rstrip()[:-9])
    with pytest.raises(InputError, match=r"index\.adv is damaged at the word 'well'"):
        WordNet(folder).find("well", Part.ADVERB)


def test_a_file_that_went_away_is_named(folder: Path) -> None:
    wordnet = WordNet(folder)
    (folder / "index.verb").unlink()
    with pytest.raises(InputError, match=r"index\.verb cannot be read"):
        wordnet.find("say", Part.VERB)
