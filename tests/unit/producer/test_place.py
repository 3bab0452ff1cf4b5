"""Inputs by URL: one object, a folder, a glob; and names, whole and apart."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from producer.overlap import reads_jobs, reads_output
from producer.place import ObjectPath, absolute, list_objects, make_place, resolve, to_source
from producer.scan import prove_input
from producer.source import find_files, open_source, stream_rows
from tests.s3_server import S3
from worker.contracts.errors import InputError, UsageError
from worker.contracts.job import Columns
from worker.contracts.url import find_parent


def names(s3: S3, pattern: str) -> list[str]:
    return [str(one).removeprefix(f"{s3.url}/") for one in list_objects(f"{s3.url}/{pattern}")]


def test_a_url_names_an_object_a_folder_or_a_glob(s3: S3) -> None:
    for key in ("in/b.parquet", "in/a.parquet", "in/x/c.jsonl", "in/_tmp/d.parquet", "in/note.txt",
                "in/.e.parquet", "inn/f.parquet", "in/[a].parquet", "q?.parquet"):  # fmt: skip
        s3.put(key, b"x")
    assert names(s3, "in/a.parquet") == ["in/a.parquet"]
    assert names(s3, "in/*.parquet")[-2:] == ["in/a.parquet", "in/b.parquet"]
    assert names(s3, "in*/?.parquet") == ["in/a.parquet", "in/b.parquet", "inn/f.parquet"]
    assert names(s3, "in/**/*.jsonl") == ["in/x/c.jsonl"]
    assert names(s3, "**/[!b-z].parquet") == ["in/a.parquet"]
    assert names(s3, "in/[a].parquet") == ["in/[a].parquet"], "an object's own name comes first"
    assert names(s3, "q?.parquet") == ["q?.parquet"]
    assert names(s3, "none.parquet") == []
    assert [one.name for one in find_files([f"{s3.url}/in/"])] == [
        "[a].parquet", "a.parquet", "b.parquet", "c.jsonl",
    ]  # fmt: skip


def test_what_a_url_does_not_name_is_refused(s3: S3) -> None:
    s3.put("in/note.txt", b"x")
    for name, why in (
        ("in/none.parquet", "does not exist: check the URL, and end a folder's in /"),
        ("in", "does not exist"),
        ("in/", "holds no Parquet or JSON file"),
        ("in/note.txt", "has no known ending"),
    ):
        with pytest.raises(InputError, match=why):
            find_files([f"{s3.url}/{name}"])
    with pytest.raises(InputError, match="there is no such bucket"):
        find_files(["s3://no-such-bucket/in/"])
    with pytest.raises(UsageError, match="is no URL that is known here"):
        find_files(["https://host/in.parquet"])


def test_an_object_is_proved_by_what_its_store_says(s3: S3) -> None:
    place = make_place(s3.put("in.parquet", b"12345"))
    proof = prove_input(place, 3)
    assert (proof.path, proof.size_bytes, proof.sha256) == (str(place), 5, None)
    assert proof.version == s3.etag("in.parquet")
    s3.put("in.parquet", b"54321")
    assert prove_input(place, 3) != proof
    s3.delete("in.parquet")
    with pytest.raises(InputError, match="cannot be read"):
        prove_input(place, 3)


def test_a_place_reads_like_a_path(s3: S3) -> None:
    place = make_place(s3.put("a/data.JSON.gz", b"PAR1"))
    assert isinstance(place, ObjectPath)
    assert (place.name, place.stem, place.suffix) == ("data.JSON.gz", "data.JSON", ".gz")
    assert place.is_file()
    assert not make_place(f"{s3.url}/a").is_file()
    with pytest.raises(FileNotFoundError):
        make_place(f"{s3.url}/none").open("rb")
    with pytest.raises(pa.ArrowInvalid, match="Parquet"):
        pq.ParquetFile(to_source(place))


@pytest.mark.parametrize("name", ["in.parquet", "in.jsonl.gz", "in.json"])
def test_an_object_gives_the_rows_of_a_file(s3: S3, tmp_path: Path, name: str) -> None:
    rows = [{"id": f"q{n}", "question": f"{n}?", "context": "é😀" * n} for n in range(300)]
    file = tmp_path / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=70)
    elif name.endswith(".gz"):
        file.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    else:
        paragraphs = [{"context": row.pop("context"), "qas": [row]} for row in rows]
        file.write_text(json.dumps({"data": [{"title": "t", "paragraphs": paragraphs}]}))
    read = [
        pa.concat_tables(stream_rows(open_source(find_files([place]), Columns())))
        for place in (str(file), s3.put(name, file))
    ]
    assert read[0].num_rows == 300
    assert read[1].equals(read[0])


@pytest.mark.parametrize(
    ("given", "output", "taken"),
    [
        ("s3://b/in/", "s3://b/in/x/out.parquet", True),
        ("s3://b/in/", "s3://b/inn/out.parquet", False),
        ("s3://b/in/", "s3://c/in/out.parquet", False),
        ("s3://b/**/*.parquet", "s3://b/out/", True),
        ("s3://b/*.parquet", "s3://b/out/", False),
        ("s3://b/*.parquet", "s3://b/out.parquet", True),
        ("s3://b/in.parquet", "s3://b/in.parquet", True),
        ("s3://b/in.parquet", "/in.parquet", False),
        ("in.parquet", "s3://b/in.parquet", False),
    ],
)
def test_what_is_written_into_a_store_is_never_input(given: str, output: str, taken: bool) -> None:
    assert reads_output([given], output) == taken
    jobs = output.rstrip("/").removesuffix(".parquet")
    assert reads_jobs([given], jobs, "job") == (taken and given.endswith(("/", "**/*.parquet")))


def test_names_are_made_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert absolute("in/") == "/in/"
    assert absolute("file:///a%20b") == "/a b"
    assert absolute("s3://b/x/") == "s3://b/x/"
    assert resolve("s3://b/x/") == "s3://b/x"
    assert find_parent("in/out.parquet") == "/in"
    assert find_parent("s3://b/x/out/") == "s3://b/x"
    assert find_parent("s3://b/out.parquet") == "s3://b"
