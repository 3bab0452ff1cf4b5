"""Rows about towns of our own, in files named as the package's recipes name theirs."""

import json
from pathlib import Path

NAMES = ("Joan", "Ruiz", "Kastner", "Whitlock", "Amara")
ENGLISH = "The old mill of town {town} was built in {year} by {name}, who carried a large stone."
SPANISH = "El molino de la villa {town} fue construido en {year} por {name}, junto al río."
TOWNS = 40


def write_towns(folder: Path) -> Path:
    """Write what every recipe of the package reads; return the folder."""
    folder.mkdir(parents=True)
    answerable = [
        _row(town, ENGLISH, "Who built the mill of town {town}?") for town in range(TOWNS)
    ]
    without = [_empty(town) for town in range(TOWNS)]
    spanish = [
        _row(town, SPANISH, "¿Quién construyó el molino de {town}?") for town in range(TOWNS)
    ]
    files = {
        "squad-part": answerable,
        "squad2-unanswerable": without,
        "squad2-unanswerable-matched": [_empty(town + TOWNS) for town in range(TOWNS // 4)],
        "squadshifts-new-wiki": [
            _row(town, ENGLISH, "By whom was it built?") for town in range(80, 90)
        ],
        "squad-dev-v1.1": answerable[:6],
        "squad-dev-v2.0": [*answerable[:6], *without[:6]],
        "train-v1.1-es": spanish,
        "xquad-es": spanish[:6],
        "domain": answerable,
    }
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def _row(town: int, text: str, question: str) -> dict[str, object]:
    name = NAMES[town % len(NAMES)]
    context = text.format(town=town, year=1700 + town, name=name)
    answers = {"text": [name], "answer_start": [context.index(name)]}
    return {
        "id": f"{town}",
        "question": question.format(town=town),
        "context": context,
        "answers": answers,
    }


def _empty(town: int) -> dict[str, object]:
    row = _row(town, ENGLISH, "What did the mill of town {town} cost?")
    return row | {"id": f"{town}-none", "answers": {"text": [], "answer_start": []}}
