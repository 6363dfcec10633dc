"""A memory around a pretrained model: trained for minutes, asked by distance, saved, and reported."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from retentive.checkpoints.weights import load_model, save_model
from retentive.config_types import check_count, check_counts, check_types
from retentive.data.prepare import python_library
from retentive.data.sources.documents import Document
from retentive.data.sources.text_source import SourceConfig, TextSource
from retentive.evaluation.measures.machine import describe_machine
from retentive.evaluation.report.pictures import draw, require_matplotlib, styles
from retentive.experiments.recall.answers import Row
from retentive.experiments.remember.asking import Questions, answers
from retentive.experiments.remember.report import chart, markdown
from retentive.experiments.remember.texts import Facts, make_facts
from retentive.experiments.remember.training import (
    Phase,
    Training,
    begin_from_text,
    recall_in_last_layers,
    train_to_remember,
)
from retentive.files import write_atomically
from retentive.files.progress import ProgressBar
from retentive.files.targets import check_folder_target
from retentive.models.rmt import RecurrentMemoryConfig, RecurrentMemoryTransformer, with_memory
from retentive.ops.precision import cpu_multiplies_bfloat16
from retentive.text.loading import load_tokenizer
from retentive.training.lora import add_lora, merge_lora
from retentive.training.run.first_model import check_floats

_MOST_BYTES = 1 << 21
"""Of text to stand around facts."""

_KEY_CHANNELS = 32
"""Of an associative memory's keys."""


@dataclass(frozen=True, kw_only=True)
class RememberConfig:
    """Put a recurrent memory around a pretrained model, train it to carry a word, and ask for it by distance.

    The model stays as it is. The result is a recurrent memory like any other, in the folder "model" of the output.

    Args:
        source: Folder of a model, as "retentive convert" writes it.
        output: Folder for the results.
        corpus: Folder of text, or one file, to stand around facts; without it, the sources of Python's standard
            library on this machine. A tenth of it is not trained on, and asked about.
        segment_length: Tokens of a segment.
        num_memory_tokens: Memory tokens; they begin as the words before the secret one.
        memory: "associative", which the last layers store and recall, or "tokens", which pass on what the last layer
            made of them.
        layers: With an associative memory: last layers that have one. Only these memories learn, and LoRA.
        lora_rank: Rank of LoRA on the mixers; 0 trains the memory alone.
        segments: Most segments of a text in training, phase after phase.
        steps: Of each phase.
        batch_size: Texts of a step.
        learning_rate: The highest.
        minutes: That training may take on the clock.
        distances: Segments from the word to the question, at which the model is asked.
        trials: Texts of each kind of word, known from training and new.
        seed: Decides words and texts.
    """

    source: Path
    output: Path = Path("runs/remember")
    corpus: Path | None = None
    segment_length: int = 32
    num_memory_tokens: int = 4
    memory: Literal["associative", "tokens"] = "associative"
    layers: int = 10
    lora_rank: int = 0
    segments: tuple[int, ...] = field(default=(2, 4))
    steps: tuple[int, ...] = field(default=(40, 40))
    batch_size: int = 8
    learning_rate: float = 2e-3
    minutes: float = 30.0
    distances: tuple[int, ...] = field(default=(1, 2, 4, 8, 16, 32))
    trials: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        check_counts(self, "segment_length", "num_memory_tokens", "batch_size")
        check_count("trials", self.trials, least=2)
        if len(self.segments) != len(self.steps) or not self.steps:
            raise ValueError(
                f"segments and steps must be one of each for a phase, but are {list(self.segments)} and "
                f"{list(self.steps)}."
            )
        if min(self.segments) < 2 or min(self.steps) < 1:
            raise ValueError(
                f"a phase must have 2 segments (one tells, one asks) and 1 step or more, but they are "
                f"{list(self.segments)} and {list(self.steps)}."
            )
        if not self.distances or any(a >= b for a, b in zip((0, *self.distances), self.distances, strict=False)):
            raise ValueError(f"distances must grow from 1 on, but are {list(self.distances)}.")
        check_count("layers", self.layers)
        check_count("lora_rank", self.lora_rank, least=0)
        if not self.minutes > 0:
            raise ValueError(f"minutes must be above 0, but is {self.minutes}.")


@dataclass(frozen=True, slots=True)
class Remembered:
    """What came of it.

    Attributes:
        training: What it took.
        answers: By kind of word, "known" from training or "new".
        parameters: Numbers that learned.
    """

    training: Training
    answers: Mapping[str, Sequence[Row]]
    parameters: int


def run_remember(config: RememberConfig) -> Remembered:
    """Train, ask, and write ``model``, ``remember.json``, ``remember.md`` and ``remember.png``."""
    require_matplotlib()
    check_folder_target("output", config.output)
    check_floats(config.source, "source")
    tokenizer = load_tokenizer(config.source)
    facts = make_facts(tokenizer, _text(config.corpus), config.seed)
    if config.segment_length < facts.longest:
        raise ValueError(
            f"segment_length must be at least {facts.longest}, the tokens of the longest fact, but is "
            f"{config.segment_length}."
        )
    model = _with_memory(config, facts)
    learns = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    training = _train(config, model, facts)
    if config.lora_rank:
        merge_lora(model)
    config.output.mkdir(parents=True, exist_ok=True)
    save_model(model.eval(), config.output / "model", tokenizer)
    made = Remembered(training, _ask(config, model, facts), learns)
    _write(config, made)
    return made


def _text(corpus: Path | None) -> str:
    if corpus is None:
        library = python_library(Path())
        source = SourceConfig(source=library.source, pattern=library.pattern, exclude=library.exclude)
    else:
        source = SourceConfig(source=corpus)
    parts, left = list[str](), _MOST_BYTES
    for document in TextSource(source):
        assert isinstance(document, Document)
        parts.append(document.text[:left])
        left -= len(parts[-1])
        if left <= 0:
            break
    return "\n\n".join(parts)


def _with_memory(config: RememberConfig, facts: Facts) -> RecurrentMemoryTransformer:
    torch.manual_seed(config.seed)
    backbone = load_model(config.source, dtype=torch.float32)
    if config.layers > backbone.decoder.config.num_layers:
        raise ValueError(
            f"layers must be at most the model's {backbone.decoder.config.num_layers}, but are {config.layers}."
        )
    kind: dict[str, Any] = {"write_start": "learned"}
    if config.memory == "associative":
        kind = {"memory": "associative", "associative_dim": _KEY_CHANNELS}
    memory = RecurrentMemoryConfig(
        backbone=backbone.config,
        segment_length=config.segment_length,
        num_memory_tokens=config.num_memory_tokens,
        causal_memory=config.num_memory_tokens > 1,
        **kind,
    )
    model = with_memory(backbone, memory)
    begin_from_text(model, list(facts.said))
    if config.memory == "associative":
        recall_in_last_layers(model, config.layers)
    if config.lora_rank:
        add_lora(model, config.lora_rank)
    return model


def _train(config: RememberConfig, model: RecurrentMemoryTransformer, facts: Facts) -> Training:
    both = zip(config.segments, config.steps, strict=True)
    phases = tuple(Phase(segments=segments, steps=steps) for segments, steps in both)
    with ProgressBar("train", total=sum(config.steps), unit="steps") as progress:
        return train_to_remember(
            model,
            facts,
            phases,
            rows=config.batch_size,
            segment_length=config.segment_length,
            learning_rate=config.learning_rate,
            seed=config.seed,
            max_seconds=60 * config.minutes,
            precision="bfloat16" if cpu_multiplies_bfloat16() else "float32",
            on_step=lambda step, loss: progress.advance(1),
        )


def _ask(config: RememberConfig, model: RecurrentMemoryTransformer, facts: Facts) -> dict[str, list[Row]]:
    asked = Questions(
        distances=config.distances,
        trials=config.trials,
        rows=min(16, config.trials),
        segment_length=config.segment_length,
        seed=config.seed,
    )
    rounded = torch.autocast("cpu", torch.bfloat16, enabled=cpu_multiplies_bfloat16())  # as in training
    with ProgressBar("ask", total=2 * config.trials, unit="texts") as progress, rounded:
        return {
            kind: answers(model, facts, words, asked, progress.advance)
            for kind, words in (("known", facts.known), ("new", facts.new))
        }


def _write(config: RememberConfig, made: Remembered) -> None:
    content = {
        "machine": describe_machine(torch.device("cpu")),
        "settings": {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()},
        "parameters": made.parameters,
        "training": asdict(made.training),
        "answers": {kind: [asdict(row) for row in rows] for kind, rows in made.answers.items()},
    }
    picture = chart(made.answers)
    write_atomically(config.output / "remember.json", (json.dumps(content, indent=1) + "\n").encode())
    write_atomically(config.output / "remember.md", (markdown(made.answers) + "\n").encode())
    write_atomically(config.output / "remember.png", draw(picture, styles([curve.name for curve in picture.curves])))
