import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
import zstandard

from retentive.data.sources.documents import Document, Problem
from retentive.data.sources.folders import list_files
from retentive.data.sources.reading import read_documents
from retentive.data.sources.text_source import SourceConfig, TextSource

COMPRESS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard.compress}
PAGE = """<html><head><title>On owls</title></head><body><nav><a href="/">Home</a> <a href="/x">About us</a></nav>
<article><h1>On owls</h1><p>Owls hunt at night, when their prey cannot see them coming through the trees.</p>
<p>Their feathers make no sound at all, and their eyes see in the dark better than ours do.</p></article>
<footer>Copyright, all rights reserved, cookie settings</footer></body></html>"""


def read(folder: Path, **options) -> tuple[dict[str, str], dict[str, str]]:
    files, problems = list_files(folder)
    counted: list[int] = []
    found = [*problems, *read_documents(files, on_bytes=counted.append, **options)]
    assert sum(counted) == sum(file.size for file in files)
    texts = {one.name: one.text for one in found if isinstance(one, Document)}
    return texts, {one.name: one.message for one in found if isinstance(one, Problem)}


def tar(members: dict[str, bytes]) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as made:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            made.addfile(entry, io.BytesIO(content))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "a.txt"
        made.addfile(link)
    return written.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return written.getvalue()


def pdf(text: str) -> bytes:
    """A PDF of one page, as small as one can be."""
    shown = zlib.compress(f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET".encode())
    parts = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 200]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d/Filter/FlateDecode>>stream\n%s\nendstream" % (len(shown), shown),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
        b"<</Title(A paper)>>",
    ]
    content, places = b"%PDF-1.4\n", []
    for number, part in enumerate(parts, start=1):
        places.append(len(content))
        content += b"%d 0 obj%s\nendobj\n" % (number, part)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    head = b"xref\n0 %d\n0000000000 65535 f \n" % (len(parts) + 1)
    trailer = b"trailer<</Size %d/Root 1 0 R/Info 6 0 R>>\nstartxref\n%d\n%%%%EOF" % (len(parts) + 1, len(content))
    return content + head + table + trailer


def locked(content: bytes) -> bytes:
    """The same PDF for those who know its password alone."""
    keys = b"/Encrypt<</Filter/Standard/V 1/R 2/P -4/O<" + b"61" * 32 + b">/U<" + b"62" * 32 + b">>>/ID[<61><61>]"
    return content.replace(b"/Root", keys + b"/Root")


def test_compressed_files_and_members_are_read_as_files(tmp_path):
    lines = json.dumps({"text": "of a line"}).encode()
    for suffix, compress in COMPRESS.items():
        (tmp_path / f"a.txt{suffix}").write_bytes(compress("plain é".encode()))
        (tmp_path / f"b.jsonl{suffix}").write_bytes(compress(lines))
        (tmp_path / f"c.tar{suffix}").write_bytes(compress(tar({"x/y.txt": b"inside", ".hidden": b"no"})))
    (tmp_path / "d.zip").write_bytes(zipped({"z.txt": b"zipped", "in.tgz": gzip.compress(tar({"q.jsonl": lines}))}))
    (tmp_path / "e.zip.gz").write_bytes(gzip.compress(zipped({"z.txt": b"again"})))
    texts, problems = read(tmp_path)
    for suffix in COMPRESS:
        assert texts.pop(f"a.txt{suffix}") == "plain é"
        assert texts.pop(f"b.jsonl{suffix}:1") == "of a line"
        assert texts.pop(f"c.tar{suffix}/x/y.txt") == "inside"
        assert problems.pop(f"c.tar{suffix}/link") == "is not a regular file"
    assert texts == {"d.zip/z.txt": "zipped", "d.zip/in.tgz/q.jsonl:1": "of a line", "e.zip.gz/z.txt": "again"}
    assert list(problems) == ["d.zip/in.tgz/link"]


def test_bombs_nests_and_damage_are_named_and_the_rest_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("retentive.data.sources.parts._FREE_EXPANSION", 1 << 16)
    zeros = b" " * (1 << 22)
    (tmp_path / "bomb.jsonl.bz2").write_bytes(bz2.compress(zeros))
    (tmp_path / "bomb.zip").write_bytes(zipped({"a.txt": zeros, "b.txt": b"fine"}))
    (tmp_path / "bomb.tar.xz").write_bytes(lzma.compress(tar({"a.txt": zeros})))
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"text that is cut" * 99)[:-9])
    (tmp_path / "cut.tar").write_bytes(tar({"a.txt": b"whole", "b.txt": b"x" * 2000})[:1600])
    (tmp_path / "no.zip").write_bytes(b"this is not a zip")
    (tmp_path / "no.txt.zst").write_bytes(b"this is not zstd")
    nest = b"deep"
    for _ in range(6):
        nest = zipped({"n.zip": nest})
    (tmp_path / "nest.zip").write_bytes(nest)
    (tmp_path / "z.txt").write_text("the last")
    texts, problems = read(tmp_path, max_document_bytes=1 << 20)
    assert texts == {"bomb.zip/b.txt": "fine", "cut.tar/a.txt": "whole", "z.txt": "the last"}
    for name in ("bomb.jsonl.bz2", "bomb.zip/a.txt", "bomb.tar.xz/a.txt"):
        assert "200 times its size" in problems[name] or "above max_document_bytes" in problems[name], problems
    assert "is damaged (Compressed file ended" in problems["cut.txt.gz"]
    assert "is damaged or no zip archive (File is not a zip file)" in problems["no.zip"]
    assert "is damaged" in problems["no.txt.zst"]
    assert any(name.startswith("cut.tar") for name in problems)
    assert any("is an archive in 3 others" in message for message in problems.values())


def test_members_that_are_bombs_together_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("retentive.data.sources.parts._FREE_EXPANSION", 1 << 16)
    members = {f"{number:02}.txt": b" " * (1 << 15) + b"%d" % number for number in range(40)}
    (tmp_path / "many.zip").write_bytes(zipped(members))
    (tmp_path / "z.zip").write_bytes(zipped({"a.txt": b"text"}))
    texts, problems = read(tmp_path)
    held = sum(len(text) for text in texts.values())
    assert held <= (1 << 16) + 200 * (tmp_path / "many.zip").stat().st_size
    assert len(texts) + len(problems) == 41
    assert all("200 times its size" in message for message in problems.values())
    assert texts["z.zip/a.txt"] == "text"  # each file has its own share


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_compressed_file_that_is_cut_anywhere_gives_no_text(tmp_path, suffix):
    whole = COMPRESS[suffix]("".join(map(str, range(300))).encode())
    for size in range(1, len(whole), 7):
        (tmp_path / f"{size}.txt{suffix}").write_bytes(whole[:size])
    texts, problems = read(tmp_path)
    assert texts == {}
    assert all("is damaged" in message for message in problems.values())
    (tmp_path / f"two.txt{suffix}").write_bytes(whole + whole)
    assert len(read(tmp_path)[0][f"two.txt{suffix}"]) == 2 * len("".join(map(str, range(300))))


def test_a_tar_archive_that_is_cut_or_damaged_anywhere_is_told(tmp_path):
    whole = tar({"a.txt": b"first", "b.txt": b"second", "c.txt": b"third"})
    for block in range(1, 7):
        (tmp_path / f"cut{block}.tar").write_bytes(whole[: 512 * block])
        (tmp_path / f"damaged{block}.tar").write_bytes(
            whole[: 512 * block + 9] + bytes([whole[512 * block + 9] ^ 1]) + whole[512 * block + 10 :]
        )
    texts, problems = read(tmp_path)
    for block in range(1, 7):
        assert any(name.startswith(f"cut{block}.tar") for name in problems), block
        shown = {name: text for name, text in texts.items() if name.startswith(f"damaged{block}.tar")}
        assert len(shown) == 3 or f"damaged{block}.tar" in problems, block
    (tmp_path / "zipped.tar").write_bytes(gzip.compress(whole))
    (tmp_path / "none.tar").write_bytes(bytes(10240))
    problems = read(tmp_path)[1]
    assert problems["zipped.tar"].startswith("is gzip, or is damaged or no tar archive")
    assert problems["none.tar"] == "is an archive without files"


def test_links_in_archives_are_not_texts(tmp_path):
    link = zipfile.ZipInfo("link.txt")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        made.writestr(link, "/etc/passwd")
    assert read(tmp_path) == ({}, {"a.zip/link.txt": "is not a regular file"})


def test_what_is_no_text_is_named_for_what_it_is(tmp_path):
    kinds = {
        "a.dat": (gzip.compress(b"x"), "is gzip, not text: exclude it"),
        "b.png": (b"\x89PNG\r\n\x1a\n\x00\x00", "is an image (PNG), not text: exclude it"),
        "c.db": (b"SQLite format 3\x00\xff", "is an SQLite database, not text: exclude it"),
        "d.txt": ("é".encode("utf-16"), "is UTF-16, not text: convert it to UTF-8, or exclude it"),
        "e.bin": (b"\x07\x00\xff\xfe", "is binary data, not text: exclude it"),
        "f.txt": ("é".encode("latin-1"), "is not UTF-8 (byte 0xe9 at offset 0): convert it to UTF-8, or exclude it"),
        "g.pdf": (b"%PDF-1.4 no more", "is a PDF that cannot be read"),
        "g2.pdf": (b"plain words", "is no PDF, whatever its name says"),
        "g3.pdf": (b"", "has no text"),
        "g4.pdf": (locked(pdf("secret")), "is a PDF that needs a password"),
        "h.html": (b"<html><body> </body></html>", "is a page without text"),
        "i.pdf": (pdf("lost").replace(b"/Contents 4 0 R", b"/Contents 9 9 R"), "is a PDF without text"),
        "j.txt": ("plain words".encode("utf-16-le"), "is binary data with many zero bytes (UTF-16 has them), not text"),
        "k.txt": (bytes(5000), "is binary data with many zero bytes"),
        "l.csv": (
            b"text\n" + b"x" * (1 << 16),
            "is damaged or no table, after row 0 (a line has over 10,000 characters",
        ),
        "m.pdf": (pdf("long " * 2100), "has over 10,"),
    }
    for name, (content, _) in kinds.items():
        (tmp_path / name).write_bytes(content)
    texts, problems = read(tmp_path, max_document_bytes=10_000)
    assert texts == {}
    for name, (_, message) in kinds.items():
        assert problems[name].startswith(message), problems[name]


def test_pages_give_their_main_text_and_title(tmp_path):
    (tmp_path / "a.html").write_text(PAGE)
    (tmp_path / "b.pdf").write_bytes(pdf("Owls hunt at night"))
    (tmp_path / "c.md").write_text("# Heading\n\n<b>as it stands</b>")
    page, paper, plain = read_documents(list_files(tmp_path)[0])
    assert isinstance(page, Document)
    assert "feathers make no sound" in page.text
    assert "About us" not in page.text
    assert "cookie" not in page.text
    assert page.metadata["title"] == "On owls"
    assert isinstance(paper, Document)
    assert (paper.text, paper.metadata) == ("Owls hunt at night", {"title": "A paper"})
    assert isinstance(plain, Document)
    assert (plain.text, plain.metadata) == ("# Heading\n\n<b>as it stands</b>", {})


def test_chosen_columns_come_with_their_documents(tmp_path):
    import pyarrow
    import pyarrow.parquet

    known = {"title": "Owls, a book", "year": 1999, "tags": ["a", "b"], "none": None}
    (tmp_path / "a.jsonl").write_text(json.dumps({"body": "one", **known, "nan": float("nan")}) + "\n")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"body": "two", **known}]), tmp_path / "b.parquet")
    (tmp_path / "c.csv").write_text('year,body,title\n1999,"three,\nand more","Owls, a book"\n007,,x\n1.5,four,\n')
    (tmp_path / "d.tsv").write_text("text\tyear\nno body\t3\n")
    config = SourceConfig(source=tmp_path, field="body", metadata="title, year,tags,none,nan")
    source = TextSource(config)
    documents = {one.name: (one.text, dict(one.metadata)) for one in source}
    whole = {"title": "Owls, a book", "year": 1999, "tags": '["a", "b"]'}
    assert documents == {
        "a.jsonl:1": ("one", whole),
        "b.parquet:1": ("two", whole),
        "c.csv:1": ("three,\nand more", {"title": "Owls, a book", "year": 1999}),
        "c.csv:3": ("four", {"year": 1.5}),
    }
    assert source.problems == [
        "c.csv:2: has no text",
        "d.tsv: has no column 'body' (it has: 'text', 'year'): name the one with the text",
        "metadata 'none': no document has it",
        "metadata 'nan': no document has it",
    ]


def test_tables_of_other_programs_are_read_and_no_cell_is_lost(tmp_path):
    tables = {
        "comma.csv": b"text,year\na,1\n",
        "excel.csv": b"\xef\xbb\xbftext;year\r\na, with commas;1\r\n",
        "tabs.csv": b"year\ttext\n1\ta\n",
        "bars.tsv": b"text|year\na|1\n",
        "more.csv": b"text,year\na, and more,1\nfine,2\n",
        "twice.csv": b"text,text\na,b\n",
        "latin.csv": b"text,title\nfine,x\n\xe9,x\nb,\xe9\nlast,x\n",
        "utf16.csv": "text,year\na,1\n".encode("utf-16"),
        "utf16.jsonl": '{"text": "a"}\n'.encode("utf-16"),
        "half.jsonl": b'{"text": "a", "title": "\\ud800"}\n',
    }
    for name, content in tables.items():
        (tmp_path / name).write_bytes(content)
    texts, problems = read(tmp_path, metadata=("title",))
    assert texts == {
        "comma.csv:1": "a",
        "excel.csv:1": "a, with commas",
        "tabs.csv:1": "a",
        "bars.tsv:1": "a",
        "more.csv:2": "fine",
        "latin.csv:1": "fine",
        "latin.csv:4": "last",
    }
    assert problems == {
        "more.csv:1": "has 3 cells under 2 columns: quote cells with ','",
        "twice.csv": "has 2 columns 'text': rename the others",
        "latin.csv:2": "is not UTF-8 (character 0): convert the file to UTF-8",
        "latin.csv:3": "column 'title' holds what is not UTF-8: mend it, or choose other metadata",
        "utf16.csv": "is UTF-16, not a table in UTF-8: convert it",
        "utf16.jsonl": "is UTF-16, not JSON in UTF-8: convert it",
        "half.jsonl:1": "field 'title' holds what is not UTF-8: mend it, or choose other metadata",
    }


def test_parquet_of_any_columns_is_read_or_named(tmp_path):
    import pyarrow
    import pyarrow.parquet

    half = pyarrow.array([b"\xff", b"good", b"good"]).view(pyarrow.string())
    times = pyarrow.array([1000, 2000, 10**18], pyarrow.timestamp("ms"))
    known = pyarrow.table({"text": ["a", "b", "c"], "half": half, "time": times})
    pyarrow.parquet.write_table(known, tmp_path / "known.parquet")
    twice = pyarrow.table([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    pyarrow.parquet.write_table(twice, tmp_path / "twice.parquet")
    files, _ = list_files(tmp_path)
    spoiled, second, beyond, third, problem = read_documents(files, metadata=("half", "time"))
    assert isinstance(spoiled, Problem)
    assert spoiled.message == "column 'half' holds what is not UTF-8: mend it, or choose other metadata"
    assert isinstance(second, Document)
    assert second.metadata == {"half": "good", "time": "1970-01-01T00:00:02"}
    assert isinstance(beyond, Problem)
    assert beyond.kept
    assert beyond.name == "known.parquet:3"
    assert "column 'time' is left out of the metadata" in beyond.message
    assert isinstance(third, Document)
    assert third.metadata == {"half": "good"}
    assert isinstance(problem, Problem)
    assert problem.message == "has 2 columns 'text': rename the others"


@pytest.mark.parametrize("content", [b'text\n"open', b"text\n\xff\n", b"", b"text\n", b"a,text\n1\n"])
def test_damaged_and_empty_tables_are_named(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content)
    texts, problems = read(tmp_path)
    assert texts == {}
    assert len(problems) == 1


def test_options_that_no_file_goes_by_are_told(tmp_path):
    (tmp_path / "a.txt").write_text("plain")
    texts, problems = read(tmp_path, field="body")
    assert texts == {"a.txt": "plain"}
    assert problems == {"field 'body'": "no file has fields or columns (.jsonl .ndjson .parquet .csv .tsv)"}
    assert read(tmp_path, separator="x")[1] == {}
    (tmp_path / "a.txt").rename(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").write_text('{"body": "plain"}\n')
    texts, problems = read(tmp_path, field="body", separator="x")
    assert texts == {"a.jsonl:1": "plain"}
    assert problems == {"separator 'x'": "no file is plain text"}
