"""A WordNet of a few words of our own, written in the database's format."""

from collections.abc import Sequence
from pathlib import Path

#: Sets of synonyms by part of speech, each word's senses in this order. A word may have a marker.
SETS: dict[str, list[str]] = {
    "noun": [
        "mill grinder", "wheel rotating_wheel roller", "city metropolis", "bridge span",
        "stone rock", "stone pit kernel", "night dark", "company firm", "box crate",
        "lady gentlewoman",
        "Paris City_of_Light", "hero paladin", "box boxwood", "leaf foliage", "record disc",
        "answer reply", "year twelvemonth", "engineer technologist", "loaf bread", "ox bullock",
        "apple malus", "sale sell", "house",
    ],
    "verb": [
        "build construct", "carry transport", "say tell", "stop halt", "answer reply",
        "try attempt", "record tape", "begin start", "bake roast", "put lay",
        "complete finish", "buy purchase",
    ],
    "adj": ["large big", "able(p) capable", "quick fast", "old aged"],
    "adv": ["quickly rapidly", "well good"],
}  # fmt: skip
EXCEPTIONS = {
    "noun": ["leaves leaf", "oxen ox", "heroes hero", "loaves loaf"],
    "verb": [
        "built build", "said say", "told tell", "stopped stop", "stopping stop", "began begin",
        "begun begin", "beginning begin", "laid lay", "bought buy", "tried try", "carried carry",
        "replied reply",
    ],
    "adj": ["older old"],
    "adv": ["best well"],
}  # fmt: skip
#: So many senses of a word occur in annotated texts; of every other word all do.
TAGGED = {("record", "verb"): 0, ("answer", "verb"): 1, ("answer", "noun"): 1}

LICENCE = "  1 A licence stands here, indented like this.  \n"


def write_wordnet(folder: Path) -> Path:
    """Write the twelve files and return the folder."""
    folder.mkdir(parents=True)
    for part, sets in SETS.items():
        places = _write_data(folder / f"data.{part}", part[0], [one.split() for one in sets])
        _write_index(folder / f"index.{part}", part, places)
        (folder / f"{part}.exc").write_text("".join(f"{line}\n" for line in EXCEPTIONS[part]))
    return folder


def _write_data(path: Path, kind: str, sets: Sequence[list[str]]) -> list[tuple[str, int]]:
    raw = LICENCE
    places = []
    for words in sets:
        place = len(raw)
        places += [(word.partition("(")[0].lower(), place) for word in words]
        listed = " ".join(f"{word} 0" for word in words)
        raw += (
            f"{place:08d} 06 {kind} {len(words):02x} {listed} 001 @ 00000001 {kind} 0000 | gloss\n"
        )
    path.write_text(raw)
    return places


def _write_index(path: Path, part: str, places: Sequence[tuple[str, int]]) -> None:
    raw = LICENCE
    for lemma in sorted({lemma for lemma, _ in places}):
        own = [place for word, place in places if word == lemma]
        tagged = TAGGED.get((lemma, part), len(own))
        listed = " ".join(f"{place:08d}" for place in own)
        raw += f"{lemma} {part[0]} {len(own)} 2 @ ~ {len(own)} {tagged} {listed}  \n"
    path.write_text(raw)
