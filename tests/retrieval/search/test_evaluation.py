import json

import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from retentive.cli.main import main
from retentive.retrieval import Datastore, HybridEncoder
from retentive.retrieval.search.evaluation import quality_of, rank_documents, read_judgements, read_topics, run_lines
from retrieval.texts import HashedWords

NAMES = [f"d{number}" for number in range(9)]
SCORES = st.dictionaries(st.sampled_from(NAMES), st.sampled_from([-1.5, 0.0, 0.25, 0.5, 3.0]), max_size=9)
RELEVANCE = st.dictionaries(st.sampled_from(NAMES), st.integers(-1, 3), min_size=1, max_size=9)


@given(run=st.dictionaries(st.sampled_from("abc"), SCORES), judged=st.dictionaries(st.sampled_from("abc"), RELEVANCE))
def test_measures_are_those_of_trec_eval(run, judged):
    judged = {query: found for query, found in judged.items() if run.get(query)}
    if not judged:
        return
    names = {"ndcg_cut_10", "recip_rank", "recall_5"}
    expected = pytrec_eval.RelevanceEvaluator(judged, {"ndcg_cut.10", "recip_rank", "recall.5"}).evaluate(run)
    found = quality_of(run, judged, 5).as_dict()
    for name in names:
        mean = sum(expected[query][name] for query in judged) / len(judged)
        assert found[name] == pytest.approx(mean, abs=1e-12)
    assert found["queries"] == len(judged)


def test_a_query_without_answers_counts_as_a_failure():
    judged = {"a": {"d1": 1}, "b": {"d1": 1}}
    assert quality_of({"a": {"d1": 1.0}}, judged, 10).as_dict() == {
        "queries": 2,
        "ndcg_cut_10": 0.5,
        "recip_rank": 0.5,
        "recall_10": 0.5,
    }
    with pytest.raises(ValueError, match="there are no judgements"):
        quality_of({}, {}, 10)


@pytest.mark.parametrize("encoder", [None, HybridEncoder(HashedWords())])
def test_documents_are_ranked_by_their_best_chunk(tmp_path, encoder):
    documents = [(name, f"{'filler ' * 9}word{number} {'filler ' * 9}") for number, name in enumerate(NAMES)]
    store = Datastore.build(documents, tmp_path / "s", chunk_size=16, encoder=encoder)
    ranking = rank_documents(store, "word4", 5 if encoder else 1)
    assert len(ranking) == (5 if encoder else 1)
    assert max(ranking, key=lambda name: ranking[name]) == "d4"
    assert list(ranking.values()) == sorted(ranking.values(), reverse=True)
    store.remove(["d4"])
    assert "d4" not in rank_documents(store, "filler word4", 9)


def test_the_command_reads_and_writes_the_formats_of_trec(tmp_path, capsys):
    Datastore.build([("a b.txt", "owls hunt"), ("c.txt", "swifts sleep"), ("d.txt", "owls")], tmp_path / "s")
    (tmp_path / "queries.tsv").write_text("1\towls hunt\n2\tswifts\n")
    (tmp_path / "qrels").write_text("1\t0\ta b.txt\t2\n1 0 d.txt 1\n2 0 d.txt 1\n")
    asked = ["index", "evaluate", str(tmp_path / "queries.tsv"), "--judgements", str(tmp_path / "qrels")]
    main([*asked, "--store", str(tmp_path / "s"), "--run", str(tmp_path / "run"), "--json", "true"])
    assert json.loads(capsys.readouterr().out) == {
        "queries": 2,
        "ndcg_cut_10": 0.5,
        "recip_rank": 0.5,
        "recall_100": 0.5,
    }
    lines = [line.split("\t") for line in (tmp_path / "run").read_text().splitlines()]
    assert [[line[0], line[2], line[3]] for line in lines] == [
        ["1", "a b.txt", "1"],
        ["1", "d.txt", "2"],
        ["2", "c.txt", "1"],
    ]
    assert run_lines({"q": {"a": 0.5, "b": 0.5}}, "me") == ["q\tQ0\tb\t1\t0.5\tme", "q\tQ0\ta\t2\t0.5\tme"]
    main([*asked, "--store", str(tmp_path / "s")])
    assert "ndcg_cut_10       0.5000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1 no tab", "line 1 is no name, tab and text"),
        ("1\ta\n1\tb", "line 2 names a query again"),
        ("\n", "has no query"),
    ],
)
def test_files_of_queries_that_cannot_be_are_named(tmp_path, content, message):
    (tmp_path / "q").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_topics(tmp_path / "q")


@pytest.mark.parametrize("content", ["1 0 d", "1 0 d x", "word"])
def test_files_of_judgements_that_cannot_be_are_named(tmp_path, content):
    (tmp_path / "q").write_text(content)
    with pytest.raises(ValueError, match="line 1 is no query, 0, document and relevance"):
        read_judgements(tmp_path / "q")


def test_lines_of_queries_and_judgements_end_at_line_ends_alone(tmp_path):
    (tmp_path / "q").write_bytes("\ufeff1\tone\x0cpage\u2028more\x85\r\n2\ttwo\n".encode())
    assert read_topics(tmp_path / "q") == {"1": "one\x0cpage\u2028more", "2": "two"}
    (tmp_path / "j").write_bytes("\ufeff1 0 a\u2028b.txt 1\r\n2\t0\tc\td -1\t2\n".encode())
    assert read_judgements(tmp_path / "j") == {"1": {"a\u2028b.txt": 1}, "2": {"c\td -1": 2}}


@pytest.mark.parametrize("read", [read_topics, read_judgements])
def test_files_of_other_encodings_are_named(tmp_path, read):
    (tmp_path / "q").write_bytes("1\tcaf\xe9\n".encode("latin-1"))
    with pytest.raises(ValueError, match="q must be UTF-8, but its byte 5 is not: convert it"):
        read(tmp_path / "q")
