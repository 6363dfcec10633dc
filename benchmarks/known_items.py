"""Known items in the PEPs: is the document found that a sentence, a title or a question is about?

    python -m benchmarks.known_items --corpus peps.tar.gz [--documents 120] [--encoder hybrid] [--rerank]

A sentence is drawn from every document and a title is every document's own; both are looked for among all documents.
The questions were written for this benchmark, without looking at the documents' words: some to choose by, others to
measure by.
"""

import argparse
import json
import random
import re
import statistics
import tarfile
import tempfile
import time
from pathlib import Path

from benchmarks.retrieval import encoder_folder
from retentive.retrieval import Datastore, DenseEncoder, Reranker, make_encoder
from retentive.retrieval.rerankers import open_reranker
from retentive.retrieval.search.evaluation import Judgements, Topics, quality_of, rank_documents

QUESTIONS = {
    "How should I lay out and name things in my Python code?": 8,
    "What must be in the documentation string of a function?": 257,
    "Who decides about the language now that its creator stepped down?": 13,
    "Can I assign to a variable inside of an expression?": 572,
    "How do I put values into a text with curly braces in the string literal?": 498,
    "When will Python 2 be no longer maintained?": 373,
    "Which new operator multiplies matrices?": 465,
    "How can a project declare which tools build it?": 518,
    "How are version numbers of packages compared?": 440,
    "What is a virtual environment and how does the interpreter find it?": 405,
    "Can we get rid of the lock that lets only one thread run?": 703,
    "How can each subinterpreter have its own lock?": 684,
    "How do I write a coroutine with await?": 492,
    "What replaces long chains of if and elif by looking at the structure of a value?": 634,
    "How are types of variables written down without comments?": 526,
    "May a class be described by what methods it has rather than by inheritance?": 544,
    "What do web servers and Python applications say to each other?": 3333,
    "Which arguments can only be passed by position?": 570,
    "What happens with division of two integers?": 238,
    "Is there a type for members of a fixed set of named constants?": 435,
}
FOR_CHOOSING = {
    "What are the guiding aphorisms behind the language's design?": 20,
    "How do I propose a change to the language, and what happens to the proposal?": 1,
    "Is there a shorter way to make a list out of a loop?": 202,
    "When did the language get an unordered collection without duplicates?": 218,
    "How does a for loop ask an object for its next element?": 234,
    "Can a function give back values one at a time and keep its local variables in between?": 255,
    "Can modules be loaded out of a compressed archive?": 273,
    "Is there a standard way for programs to write messages about what they are doing?": 282,
    "How can I sum squares without creating the whole list in memory?": 289,
    "How do I customise where modules are loaded from?": 302,
    "How do I read and write spreadsheets as comma separated files?": 305,
    "Is there a one-line choice between two values?": 308,
    "How do I wrap a function with syntax above its definition?": 318,
    "How do I start another program and read what it prints?": 324,
    "Why does importing a sibling module need a leading dot?": 328,
    "How do I make sure that a file is closed when a block ends?": 343,
    "What must an object that is raised derive from?": 352,
    "How can a generator delegate to another one?": 380,
    "How are characters stored in memory so that ASCII texts take little space?": 393,
    "Can a package be spread over several directories without an initialisation file?": 420,
    "Do child processes get the open files of their parent?": 446,
    "How do I annotate what a function takes and returns?": 484,
    "What about the hour that happens twice when clocks are set back?": 495,
    "How can I write long numbers so that their digits are easier to read?": 515,
    "How can an object stand for a location in the file system when a file is opened?": 519,
    "Can a coroutine produce a series of values over time?": 525,
    "How do I stop in the debugger from within my code?": 553,
    "How do I refer to a class in a hint before it is defined?": 563,
    "How do I merge two mappings with an operator?": 584,
    "Can ordinary containers be used in hints instead of importing capitalised ones?": 585,
    "How often does a new version come out?": 602,
    "How do I say with a vertical bar that a parameter may be a number or nothing?": 604,
    "How can I cut a known beginning off a string?": 616,
    "How can several errors be raised at once?": 654,
    "How does the interpreter get faster by specialising instructions while it runs?": 659,
    "Can configuration files in Tom's language be read without a third party?": 680,
    "What is the short notation for generic functions and classes?": 695,
    "How do I require subclasses to implement certain methods?": 3119,
    "May variables have names with accents or Chinese letters?": 3131,
    "Why does printing need parentheses now?": 3105,
    "How do I take the first item and collect the rest in one assignment?": 3132,
    "How do I call the parent's method without naming the class?": 3135,
    "How do I run functions in a pool of threads and collect their results later?": 3148,
    "How can arrays share their memory with other extensions without copying?": 3118,
}
"""Questions by which the fusion and the reranker were chosen; `QUESTIONS` were left for measuring."""

_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


def read_corpus(path: Path, count: int | None) -> dict[str, str]:
    """The documents by name: those of the questions, and an even selection of the others."""
    with tarfile.open(path) as archive:
        opened = {Path(member.name).name: archive.extractfile(member) for member in archive if member.isfile()}
        texts = {name: file.read().decode() for name, file in sorted(opened.items()) if file and name.endswith(".rst")}
    asked = [name_of(number) for number in (*QUESTIONS.values(), *FOR_CHOOSING.values())]
    others = [name for name in texts if name not in asked]
    step = 1 if count is None else max(1, len(others) / max(count - len(asked), 1))
    chosen = {*asked, *(others[int(place * step)] for place in range(int(len(others) / step)))}
    return {name: text for name, text in texts.items() if name in chosen}


def name_of(number: int) -> str:
    """The file of a PEP."""
    return f"pep-{number:04d}.rst"


def draw_queries(texts: dict[str, str]) -> dict[str, tuple[Topics, Judgements]]:
    """A sentence and the title of every document, and the questions."""
    drawn = random.Random(0)
    asked = {"questions": QUESTIONS, "questions for choosing": FOR_CHOOSING}
    found: dict[str, dict[str, tuple[str, str]]] = {kind: {} for kind in ("sentences", "titles", *asked)}
    for name, text in texts.items():
        title = re.search(r"^Title: (.+)$", text, re.M)
        if title is not None:
            found["titles"][name] = (title[1], name)
        prose = " ".join(block for block in text.split("\n\n")[2:] if block[:1].isalpha())
        sentences = [" ".join(one.split()) for one in _SENTENCE.split(prose)]
        fitting = [one for one in sentences if 8 <= len(one.split()) <= 25]
        if fitting:
            found["sentences"][name] = (drawn.choice(fitting), name)
    for kind, questions in asked.items():
        for number, (question, pep) in enumerate(questions.items()):
            if name_of(pep) in texts:  # the corpus may be another one
                found[kind][str(number)] = (question, name_of(pep))
    return {
        kind: (
            {query: text for query, (text, _) in queries.items()},
            {query: {name: 1} for query, (_, name) in queries.items()},
        )
        for kind, queries in found.items()
    }


def measure(
    store: Datastore,
    queries: dict[str, tuple[Topics, Judgements]],
    depth: int = 100,
    *,
    rerank: Reranker | bool = False,
) -> dict[str, object]:
    """The measures of each kind of query, and the median seconds of a search."""
    found: dict[str, object] = {}
    rank_documents(store, "models are loaded", depth, rerank=rerank)
    for kind, (topics, judged) in queries.items():
        run: dict[str, dict[str, float]] = {}
        seconds: list[float] = []
        for query, text in topics.items():
            begin = time.perf_counter()
            run[query] = rank_documents(store, text, depth, rerank=rerank)
            seconds.append(time.perf_counter() - begin)
        found[kind] = quality_of(run, judged, depth).as_dict() | {"seconds": round(statistics.median(seconds), 4)}
    return found


def main() -> None:
    """Build a store, ask, and print the measures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--documents", type=int)
    parser.add_argument("--encoder", choices=["lexical", "dense", "hybrid"], default="lexical")
    parser.add_argument("--chunk-size", type=int, default=64)
    parser.add_argument("--rerank", action="store_true", help="Judge the first answers again.")
    parser.add_argument("--reranker", type=Path, help="Folder of the model for that; without, the store's encoder.")
    parser.add_argument("--store", type=Path, help="Folder to build in; what is finished there is kept.")
    options = parser.parse_args()
    texts = read_corpus(options.corpus, options.documents)
    encoder = make_encoder(options.encoder, *(() if options.encoder == "lexical" else (encoder_folder(),)))
    with tempfile.TemporaryDirectory() as temporary:
        place = options.store or Path(temporary) / "store"
        # Chunks of the same text for all encoders.
        tokenizer = DenseEncoder(encoder_folder()).tokenizer
        given = {"chunk_size": options.chunk_size, "encoder": encoder, "tokenizer": tokenizer}
        store = Datastore.build(list(texts.items()), place, **given)
        judge = options.rerank if options.reranker is None else open_reranker(options.reranker)
        found = measure(store, draw_queries(texts), rerank=judge)
    made = {"encoder": options.encoder, "rerank": options.rerank}
    print(json.dumps({**made, "documents": len(texts), "chunks": len(store), **found}, indent=1))


if __name__ == "__main__":
    main()
