import json
from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retentive.retrieval import Datastore, HybridEncoder, IndexConfig
from retentive.retrieval.index import vector_index
from retentive.retrieval.search import asking, searcher
from retentive.retrieval.search.answers import answer_lines, marks_for
from retentive.retrieval.search.language import parse_query
from retentive.retrieval.search.passage import surroundings
from retentive.retrieval.search.where import conditions_of
from retrieval.texts import WORDS, HashedWords, make_documents

OWL = (
    "Owls hunt at night. Their feathers make\nno sound, and their eyes see in the dark.\n\nA new paragraph about mice."
)
DOCUMENTS = [
    ("birds/owl.txt", OWL, {"year": 1999, "author": "ada"}),
    ("birds/copy.txt", OWL, {"year": 2005, "author": "bob"}),
    ("birds/swift.txt", "Swifts sleep while they fly. They see in the dark, too.", {"year": 2010}),
    ("tools/plane.txt", "A plane takes thin shavings off wood.\nKeep its iron sharp, and see to its mouth."),
]


@pytest.fixture(scope="module", params=["lexical", "own"])
def store(request, tmp_path_factory):
    encoder = None if request.param == "lexical" else HashedWords()
    return Datastore.build(DOCUMENTS, tmp_path_factory.mktemp("answers") / "s", chunk_size=16, encoder=encoder)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return Datastore.build(DOCUMENTS, tmp_path_factory.mktemp("words") / "s", chunk_size=16)


def test_an_answer_is_a_sentence_with_its_place_and_marked_words(words):
    answer, *rest = words.answers("feathers sound")
    assert answer.text == "Their feathers make\nno sound, and their eyes see in the dark."
    assert [answer.text[begin:end] for begin, end in answer.matches] == ["feathers", "sound"]
    assert (answer.document, answer.copies, answer.line, answer.column) == ("birds/owl.txt", ("birds/copy.txt",), 1, 27)
    assert answer.metadata == {"year": 1999, "author": "ada"}
    assert OWL.encode()[answer.begin : answer.end].decode() == answer.text
    assert rest == []
    (second,) = words.answers("iron shape", k=9, one_per_document=True)
    assert (second.document, second.text) == ("tools/plane.txt", "Keep its iron sharp, and see to its mouth.")
    assert (second.line, second.column) == (2, 10)


def test_results_of_a_search_are_iterable(words):
    found = words.search("dark", k=9)
    assert len(found) == len(list(found)) == 3
    for answer, chunk, score in zip(found, found.ids[0], found.scores[0], strict=False):
        assert (answer.chunk, answer.score) == (chunk, score)
        assert "dark" in answer.text
    several = words.search(["dark", "iron"], k=2)
    with pytest.raises(ValueError, match=r"there are 2 queries: ask for the answers of each, as in found.answers\(0\)"):
        iter(several)
    assert [answer.document for answer in several.answers(1)] == ["tools/plane.txt"]
    assert json.loads(json.dumps([answer.as_dict() for answer in found]))[0]["document"] == "birds/owl.txt"


def test_phrases_and_unwanted_words(words):
    assert words.answers('"see in the dark"', one_per_document=True)[1].document == "birds/swift.txt"
    assert words.answers('"in see"') == []
    assert words.answers('"NO  sound"')[0].document == "birds/owl.txt", (
        "a phrase may go over a chunk's and a line's end"
    )
    assert [answer.document for answer in words.answers("see -feathers -sharp")] == ["birds/swift.txt"]
    assert not any("no sound" in answer.text for answer in words.answers('see -"no sound"', k=9))
    assert words.answers("-see") == []
    assert words.answers('"no sound" dark', operators=False)[0].text


def test_conditions_hold_for_every_answer(store):
    def names(**options):
        return {answer.document for answer in store.answers("see in the dark", k=9, **options)}

    assert names(where="year>=2000") <= {"birds/copy.txt", "birds/swift.txt"}
    assert names(where={"year": {">": 1999, "<=": 2005}}) == {"birds/copy.txt"}
    assert names(where={"author": ["ada", "eve"]}) == {"birds/owl.txt"}
    assert names(where="path=tools/*") == {"tools/plane.txt"}
    assert names(where={"path": {"~": "birds/s*"}}) == {"birds/swift.txt"}
    assert names(where={"author": "nobody"}) == set()
    assert names(where={"year": {"!=": 1999}}, exclude_documents="birds/copy.txt") == {"birds/swift.txt"}
    found = store.search(["dark", "night"], k=3, where="author:ada")
    assert set(store.corpus.documents(found.ids).reshape(-1).tolist()) <= {0, -1}
    assert names(where="year>=1999.0 year<=1999") == {"birds/owl.txt"}
    with pytest.raises(ValueError, match=r"no document has the column 'size'; the columns are author, path, year"):
        names(where="size>3")
    with pytest.raises(ValueError, match=r"where must be conditions such as year>=1999 .*, but 'old' is none"):
        names(where="year<2000 old")
    with pytest.raises(ValueError, match=r"where compares by = != < <= > >= ~, but has '\$gt' for 'year'"):
        names(where={"year": {"$gt": 3}})
    for unknown in (None, b"1999", object(), {"year"}):
        for condition in (unknown, [unknown], {"=": unknown}):
            with pytest.raises(ValueError, match=r"where compares with text, numbers, truth values and dates, but has"):
                names(where={"year": condition})
    assert names(where={"year": np.int64(1999)}) == names(where="year=1999") == {"birds/owl.txt"}


def test_dates_are_compared_as_readers_write_them(tmp_path):
    days = [date(2020, 1, 31), date(2020, 2, 1), date(2021, 1, 1)]
    store = Datastore.build([(str(day), "one text", {"day": day.isoformat()}) for day in days], tmp_path / "s")
    found = {answer.document for answer in store.search("one text", k=9, where={"day": {">": days[0]}})}
    assert found == {"2020-02-01", "2021-01-01"}
    assert [answer.document for answer in store.search("text", k=9, where={"day": [days[0]]})] == ["2020-01-31"]


def names_of(store, found):
    return [store.corpus.document_name(number) for number in store.corpus.documents(found.ids)[0].tolist()]


@pytest.mark.parametrize("few", [0, 1 << 14])
def test_conditions_are_applied_inside_the_search(tmp_path, monkeypatch, few):
    for module in (searcher, vector_index):
        monkeypatch.setattr(module, "AT_ONCE", max(few, 7))
    documents = [(name, text, {"kept": number % 5 == 0}) for number, (name, text) in enumerate(make_documents(60))]
    encoder = HybridEncoder(HashedWords(), depth=10)
    made = {"chunk_size": 16, "block_bytes": 900}
    # An index that looks into one of its 16 lists alone finds few of the chunks that fulfil a condition.
    index = IndexConfig(factory="IVF16,Flat", recall=0.01)
    store = Datastore.build(documents, tmp_path / "s", encoder=encoder, index=index, **made)
    chosen = [one for one in documents if one[2]["kept"]]
    fresh = Datastore.build(chosen, tmp_path / "fresh", encoder=HashedWords(), **made)
    dense = Datastore.build(documents, tmp_path / "dense", encoder=HashedWords(), index=index, **made)
    for text in ("baa bab", "loc tia", "sup"):
        found, expected = dense.search(text, k=12, where={"kept": True}), fresh.search(text, k=12)
        assert names_of(dense, found) == names_of(fresh, expected)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
        fused = store.search(text, k=12, where="kept:true")
        assert (fused.ids >= 0).all()
        assert found.ids[0, 0] in fused.ids[0], "what is first by vectors is among the fused"


@pytest.mark.parametrize("encoder", [None, HybridEncoder(HashedWords(), depth=4)])
def test_chunks_with_words_that_are_not_wanted_are_not_read_for_it(tmp_path, monkeypatch, encoder):
    documents = make_documents(40)
    store = Datastore.build(documents, tmp_path / "s", encoder=encoder, chunk_size=16)
    words = Datastore.build(documents, tmp_path / "words", chunk_size=16)
    unwanted = max(WORDS, key=lambda word: sum(word in text for _, text in documents))
    found = words.search(unwanted, k=1000).ids[0]
    having = set(found[found >= 0].tolist())
    read: set[int] = set()

    def counted(corpus, chunk, encoder):
        read.add(chunk)
        return surroundings(corpus, chunk, encoder)

    monkeypatch.setattr(asking, "surroundings", counted)
    answers = store.answers(f"{' '.join(WORDS[:30])} -{unwanted}", k=3)
    assert len(answers) == 3
    assert all(unwanted not in answer.text for answer in answers)
    assert len(having) > 5
    assert read
    assert not read & having


def test_conditions_in_a_query_are_those_of_columns_only(words):
    assert {answer.document for answer in words.answers("year:2010 dark")} == {"birds/swift.txt"}
    asked = parse_query('http://x.org note:this "a b" -c year>=3 -"d e', {"year"})
    assert (asked.text, asked.phrases, asked.without) == ('http://x.org note:this a b -"d e', ("a b",), ("c",))
    assert asked.where == conditions_of("year>=3")
    # Quotation marks in Hebrew acronyms, and those that mean inches, begin no phrase.
    assert parse_query('צה"ל ורמטכ"ל 5" or 3" disk', set()).phrases == ()
    assert parse_query('"צה"ל" "a 3" -"רמטכ"ל x"', set()).phrases == ('צה"ל', "a 3")
    assert parse_query('東京"タワー"の', set()).phrases == ("タワー",)


@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet=st.sampled_from(list('ab -":>=<~*?\\()+year\n\u0301\u6771')), max_size=24))
def test_no_query_breaks_the_search(words, text):
    if text.strip():
        for operators in (True, False):
            assert all(answer.text for answer in words.answers(text, k=2, operators=operators))


@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=30))
def test_plain_words_stay_plain(text):
    plain = "".join(letter for letter in text if letter not in '-"')
    asked = parse_query(plain, set())
    assert (asked.text, asked.phrases, asked.without, asked.where) == (" ".join(plain.split()), (), (), ())


def test_marks_stand_in_no_text_and_control_characters_are_not_shown(tmp_path):
    texts = ["plain", "\u27e6odd\u27e7", "\u27e6\u27e6"]
    assert marks_for(texts[:1]) == ("\u27e6", "\u27e7")
    assert marks_for(texts) == ("\u27e6" * 3, "\u27e7" * 3)
    store = Datastore.build([("a\x1b[31m", "\x1b[2J owl *owl*\r\n`owl`")], tmp_path / "s")
    (place, line) = answer_lines(store.answers("owl"))
    assert place.startswith("1. a\ufffd[31m, line 1, column 6")
    assert line == "   \ufffd[2J \u27e6owl\u27e7 *\u27e6owl\u27e7* `\u27e6owl\u27e7`"
    assert answer_lines(store.answers("owl"), "<", ">")[1] == "   \ufffd[2J <owl> *<owl>* `<owl>`"


@settings(max_examples=20, deadline=None)
@given(text=st.text(alphabet="ab é東.\n", min_size=1, max_size=80), chunk_size=st.integers(1, 9))
def test_lines_and_columns_are_those_of_the_text(tmp_path_factory, text, chunk_size):
    store = Datastore.build([("a", text)], tmp_path_factory.mktemp("place") / "s", chunk_size=chunk_size)
    for answer in store.answers("ab aab b 東 é", k=5) if text.strip() else ():
        places: set[tuple[int, int]] = set()
        for begin, _ in answer.matches:
            before = text.encode()[: answer.begin].decode() + answer.text[:begin]
            places.add((before.count("\n") + 1, len(before) - before.rfind("\n")))
        assert (answer.line, answer.column) in places


def test_missing_chunks_are_no_answers(words):
    found = words.search("zebra", k=3)
    assert (len(found), list(found)) == (0, [])
    assert np.isneginf(found.scores).all()


@pytest.mark.parametrize("length", [300, 560, 640, 1500])
def test_an_answer_is_not_cut_inside_a_long_word(tmp_path, length):
    word, rest = "x" * length, " The end of it"
    text = "See https://example.org. " + word + rest + " and more" * 40 + ". Another sentence."
    store = Datastore.build([("a", text)], tmp_path / "s", chunk_size=64)
    answers = store.answers(word, k=9)
    assert [answer.text[begin:end] for answer in answers for begin, end in answer.matches] == [word] * len(answers)
    for answer in answers:
        assert answer.text.startswith(word + rest)
        assert text[len(text.partition(answer.text)[0]) + len(answer.text)].isspace()
    assert answers
