"""Known items in the PEPs: is the document found that a sentence, a title or a question is about?

    python -m benchmarks.known_items --corpus peps.tar.gz [--documents 120] [--encoder hybrid] [--rerank]

A sentence that stands in no other document is drawn from every document, and a title is every document's own; both are
looked for among all documents. The questions were written for this benchmark, without looking at the documents'
words: some to choose by, others to measure by.
"""

import argparse
import json
import random
import re
import statistics
import sys
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
    "How could tools pull the documentation out of source files and turn it into pages?": 256,
    "Who decides about the language now that its creator stepped down?": 13,
    "Can I assign to a variable inside of an expression?": 572,
    "How do I put values into a text with curly braces in the string literal?": 498,
    "When will Python 2 be no longer maintained?": 373,
    "Which new operator multiplies matrices?": 465,
    "Can a class know in which order its members were written?": 520,
    "How can the parsing of parameters of functions in C be generated from a description?": 436,
    "What is a virtual environment and how does the interpreter find it?": 405,
    "Should installers refuse to touch the global interpreter unless an isolated one is active?": 704,
    "How can each subinterpreter have its own lock?": 684,
    "How do I write a coroutine with await?": 492,
    "What replaces long chains of if and elif by looking at the structure of a value?": 634,
    "How are types of variables written down without comments?": 526,
    "How is the manual offered in French or Japanese?": 545,
    "What do web servers and Python applications say to each other?": 3333,
    "Which arguments can only be passed by position?": 570,
    "What happens with division of two integers?": 238,
    "May the editor that comes along get new features in a release that mends bugs?": 434,
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
    "How does a new library get into the distribution, and who looks after it?": 2,
    "How can I keep an object in a cache without keeping it alive?": 205,
    "How can what I print go to a file instead of the screen?": 214,
    "Can there be separate operators for whole matrices and for their single entries?": 225,
    "What if a file on Windows is called Foo.py and I load foo?": 235,
    "Why is there a blank line when I print text that already ends a line?": 259,
    "Can the client for web requests log in through a proxy and edit files on a server?": 268,
    "How do I get the position along with each item in a loop?": 279,
    "How do I bring old code up to the idioms of newer releases?": 290,
    "Where do authors register what they release so that others find it?": 301,
    "How can I test the loop's condition in the middle without repeating code?": 315,
    "Is there a value that is smaller than everything else?": 326,
    "How do I run a module of a package from the command line?": 338,
    "May the built-in conversion to text give back the other kind of string?": 349,
    "How do I set up handlers and formatters from a JSON or YAML file?": 391,
    "Can I use a one-off function in a statement before I define it?": 403,
    "How is the original exception hidden when I raise another one?": 415,
    "How could an application that embeds the interpreter set it up in clear phases?": 432,
    "Is there a mapping that ignores upper and lower case in its keys but remembers how they were written?": 455,
    "Can I give names to what stands in square brackets after an object?": 472,
    "How does the py command on Windows choose the interpreter of the active environment?": 486,
    "Could time zone classes decide themselves how dates are added and compared?": 500,
    "How could a just-in-time compiler take over the running of functions?": 523,
    "Why may I not use the same quotes or a backslash within the braces of a formatted literal?": 536,
    "Can a file warn when an old name is fetched from it?": 562,
    "How can administrators see which files and connections a script opens?": 578,
    "How do extension types avoid building a tuple for each call?": 590,
    "How does a binary package say with which versions of the C library on Linux it works?": 600,
    "How do I tell the checker that a global variable is only another name for a type?": 613,
    "Why does the debugger jump to the wrong rows of my source?": 626,
    "What do I write when I unpack a tuple and don't need one of the parts?": 640,
    "Can my compiled extension go on working with the next release without being rebuilt?": 652,
    "How can profilers and coverage tools be so cheap that they can stay switched on?": 669,
    "Why is a check with a message in brackets always true?": 679,
    "How can I declare different types for the keyword arguments that a function collects?": 692,
    "Are list comprehensions made faster by not calling a hidden function?": 709,
    "Who decides about the rules for static types?": 729,
    "May I leave out the brackets when I handle two kinds of errors in one clause?": 758,
    "Which elected body decides about installers and formats of distribution?": 772,
    "How do I pick a single error out of a group and raise it again?": 785,
    "How do I write a set with nothing in it?": 802,
    "What were the ground rules for the incompatible next major version?": 3000,
    "How can an inner function change a variable of the function around it?": 3104,
    "Are there layers for raw bytes, buffering and text when files are opened?": 3116,
    "Is there a list in which inserting in the middle is cheap?": 3128,
    "Are there abstract classes for real, rational and whole values?": 3141,
    "How are very large objects serialised efficiently?": 3154,
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
    flat = [" ".join(text.split()) for text in texts.values()]
    asked = {"questions": QUESTIONS, "questions for choosing": FOR_CHOOSING}
    found: dict[str, dict[str, tuple[str, str]]] = {kind: {} for kind in ("sentences", "titles", *asked)}
    for name, text in texts.items():
        title = re.search(r"^Title: (.+)$", text, re.M)
        if title is not None:
            found["titles"][name] = (title[1], name)
        prose = " ".join(block for block in text.split("\n\n")[2:] if block[:1].isalpha())
        sentences = [" ".join(one.split()) for one in _SENTENCE.split(prose)]
        fitting = [one for one in sentences if 8 <= len(one.split()) <= 25]
        drawn.shuffle(fitting)
        own = next((one for one in fitting if sum(one in other for other in flat) == 1), None)
        if own is not None:
            found["sentences"][name] = (own, name)
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
    most: int | None = None,
) -> dict[str, object]:
    """The measures of each kind of query, and the median seconds of a search; each is printed when it is known.

    Of each kind ``most`` queries are asked, evenly over them.
    """
    found: dict[str, object] = {}
    rank_documents(store, "models are loaded", depth, rerank=rerank)
    for kind, (topics, judged) in queries.items():
        run: dict[str, dict[str, float]] = {}
        seconds: list[float] = []
        chosen = list(topics)[:: 1 if most is None else max(1, len(topics) // most)][:most]
        for query in chosen:
            text, begin = topics[query], time.perf_counter()
            run[query] = rank_documents(store, text, depth, rerank=rerank)
            seconds.append(time.perf_counter() - begin)
        asked = {query: judged[query] for query in chosen}
        found[kind] = quality_of(run, asked, depth).as_dict() | {"seconds": round(statistics.median(seconds), 4)}
        print(kind, json.dumps(found[kind]), file=sys.stderr, flush=True)
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
    parser.add_argument("--queries", type=int, help="Of each kind, at most.")
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
        found = measure(store, draw_queries(texts), rerank=judge, most=options.queries)
    made = {"encoder": options.encoder, "rerank": options.rerank}
    print(json.dumps({**made, "documents": len(texts), "chunks": len(store), **found}, indent=1))


if __name__ == "__main__":
    main()
