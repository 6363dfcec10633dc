"""Known items in the PEPs: is the document found that a sentence, a title or a question is about?

    python -m benchmarks.known_items --corpus peps.tar.gz [--documents 120] [--encoder hybrid]

A sentence is drawn from every document and a title is every document's own; both are looked for among all documents.
The questions were written for this benchmark, without looking at the documents' words.
"""

import argparse
import json
import random
import re
import tarfile
import tempfile
from pathlib import Path

from benchmarks.retrieval import encoder_folder
from retentive.retrieval import Datastore, make_encoder
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
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


def read_corpus(path: Path, count: int | None) -> dict[str, str]:
    """The documents by name: those of the questions, and an even selection of the others."""
    with tarfile.open(path) as archive:
        opened = {Path(member.name).name: archive.extractfile(member) for member in archive if member.isfile()}
        texts = {name: file.read().decode() for name, file in sorted(opened.items()) if file and name.endswith(".rst")}
    asked = [name_of(number) for number in QUESTIONS.values()]
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
    found: dict[str, dict[str, tuple[str, str]]] = {"sentences": {}, "titles": {}, "questions": {}}
    for name, text in texts.items():
        title = re.search(r"^Title: (.+)$", text, re.M)
        if title is not None:
            found["titles"][name] = (title[1], name)
        prose = " ".join(block for block in text.split("\n\n")[2:] if block[:1].isalpha())
        sentences = [" ".join(one.split()) for one in _SENTENCE.split(prose)]
        fitting = [one for one in sentences if 8 <= len(one.split()) <= 25]
        if fitting:
            found["sentences"][name] = (drawn.choice(fitting), name)
    for number, (question, pep) in enumerate(QUESTIONS.items()):
        if name_of(pep) not in texts:  # the corpus is a selection
            continue
        found["questions"][str(number)] = (question, name_of(pep))
    return {
        kind: (
            {query: text for query, (text, _) in queries.items()},
            {query: {name: 1} for query, (_, name) in queries.items()},
        )
        for kind, queries in found.items()
    }


def measure(store: Datastore, queries: dict[str, tuple[Topics, Judgements]], depth: int = 100) -> dict[str, object]:
    """The measures of each kind of query."""
    found: dict[str, object] = {}
    for kind, (topics, judged) in queries.items():
        run = {query: rank_documents(store, text, depth) for query, text in topics.items()}
        found[kind] = quality_of(run, judged, depth).as_dict()
    return found


def main() -> None:
    """Build a store, ask, and print the measures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--documents", type=int)
    parser.add_argument("--encoder", choices=["lexical", "dense", "hybrid"], default="lexical")
    parser.add_argument("--chunk-size", type=int, default=64)
    parser.add_argument("--store", type=Path, help="Folder to build in; what is finished there is kept.")
    options = parser.parse_args()
    texts = read_corpus(options.corpus, options.documents)
    encoder = make_encoder(options.encoder, *(() if options.encoder == "lexical" else (encoder_folder(),)))
    with tempfile.TemporaryDirectory() as temporary:
        place = options.store or Path(temporary) / "store"
        made = {"chunk_size": options.chunk_size, "encoder": encoder}
        made["tokenizer"] = make_encoder(
            "dense", encoder_folder()
        ).tokenizer  # chunks of the same text for all encoders
        store = Datastore.build(list(texts.items()), place, **made)
        found = measure(store, draw_queries(texts))
    print(json.dumps({"encoder": options.encoder, "documents": len(texts), "chunks": len(store), **found}, indent=1))


if __name__ == "__main__":
    main()
