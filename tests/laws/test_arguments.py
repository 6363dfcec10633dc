"""Wrong arguments of every public call and config are refused by name before anything runs."""

import dataclasses
import importlib
import inspect
import math
import pkgutil
import re
import types
import typing
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import retentive
from laws.families import random_tokens, small_config, small_model
from retentive.config_types import check_kind, check_types
from retentive.generation import generate, stream
from retentive.layers.batch_layout import RotaryConfig
from retentive.training.curriculum.fit import CurriculumConfig, fit_curriculum

pytestmark = pytest.mark.usefixtures("without_shape_checks")

API = Path(__file__).parents[2] / "docs" / "api"
HUGE = 10**5000  # whose digits Python itself does not write
NO_COUNTS = (True, 1.5, "3", math.nan, -1)
WRONG = {int: (True, 1.5, "3", math.nan, HUGE), float: (True, "hot", math.nan, HUGE), bool: (1, "yes"), Path: ("x",)}
OF_OTHERS = {"CommandParser", "RetentiveConfig"}
"""Classes whose shape is decided by another package."""
TINY = {"vocab_size": 10, "hidden_size": 8, "num_layers": 1, "num_heads": 2}
HEADS = {"hidden_size": 8, "num_heads": 2, "key_dim": 4, "value_dim": 4}
HERE = Path("somewhere")
STAGES: dict[str, Any] = {"stages": (1, 2), "learned_below": 1.0}
NEEDED: dict[str, dict[str, Any]] = {
    "AssociativeMemoryConfig": {"hidden_size": 8, "key_dim": 4},
    "AttentionConfig": {**HEADS, "num_kv_heads": 2},
    "BuildConfig": {"store": HERE},
    "AddConfig": {"store": HERE},
    "ConvertConfig": {"source": HERE, "dest": HERE},
    "CrossAttentionConfig": {"hidden_size": 8, "memory_size": 8, "num_heads": 2, "head_dim": 4},
    "ClassifierConfig": {"backbone": small_config("rmt"), "num_classes": 2},
    "CurriculumConfig": STAGES,
    "CurriculumRunConfig": {"run": HERE, "task": "copy"},
    "DistillationConfig": {"teacher": HERE},
    "EmbeddingConfig": {"vocab_size": 10, "hidden_size": 8},
    "EvaluateConfig": {"checkpoint": HERE, "store": HERE},
    "EvidenceConfig": {"corpus": HERE},
    "EvaluateStoreConfig": {"queries": HERE, "judgements": HERE, "store": HERE},
    "ExportConfig": {"model": HERE, "out": HERE},
    "FeedForwardConfig": {"hidden_size": 8, "intermediate_size": 8},
    "GatedRetentionConfig": HEADS,
    "GenerateConfig": {"checkpoint": HERE},
    "ChatConfig": {"checkpoint": HERE},
    "HarnessConfig": {"checkpoint": HERE, "harness": "lambada"},
    "HuggingFaceMemoryConfig": {"segment_length": 4, "num_memory_tokens": 2},
    "InspectConfig": {"checkpoint": HERE},
    "LineariseConfig": {"source": HERE, "dest": HERE, "store": HERE},
    "MatchingConfig": {"teacher": HERE},
    "MemoryTokensConfig": {"hidden_size": 8, "num_tokens": 2},
    "ModelsConfig": {"corpus": HERE},
    "PlanConfig": {"tokens": 1e9},
    "PrepareConfig": {"source": HERE, "output": HERE},
    "QuantisationConfig": {"bits": 8},
    "QuantiseConfig": {"source": HERE, "dest": HERE},
    "RememberConfig": {"source": HERE},
    "RemoveConfig": {"names": ["a"], "store": HERE},
    "RetentionConfig": HEADS,
    "RetrievalEvidenceConfig": {"corpus": HERE},
    "ReverseComplementConfig": {"backbone": small_config("rmt"), "complement": (0, 1)},
    "RetentionHeadsConfig": HEADS,
    "RotaryConfig": {"dim": 4},
    "SearchConfig": {"text": "x", "store": HERE},
    "ServeConfig": {"checkpoint": HERE},
    "ServeStoreConfig": {"store": HERE},
    "SharedCacheAttentionConfig": {
        "hidden_size": 8,
        "num_heads": 2,
        "num_kv_heads": 2,
        "head_dim": 4,
        "rotary": RotaryConfig(dim=4),
    },
    "SourceConfig": {"source": HERE},
    "StoreConfig": {"store": HERE},
    "SyncConfig": {"store": HERE},
    "TrainConfig": {"store": HERE, "run": HERE, "steps": 5},
}


def modules() -> Iterator[types.ModuleType]:
    for found in pkgutil.walk_packages(retentive.__path__, "retentive."):
        if not found.name.endswith("__main__"):
            try:
                yield importlib.import_module(found.name)
            except ModuleNotFoundError as error:
                if error.name != "triton":  # of GPUs alone; its programs have no configs
                    raise


def configs() -> list[type[Any]]:
    found = {
        kind
        for module in modules()
        for kind in vars(module).values()
        if inspect.isclass(kind) and kind.__module__.startswith("retentive.") and dataclasses.is_dataclass(kind)
        if kind.__name__.endswith("Config") or kind.__name__ in ("Sampling", "Stopping", "RowLimits")
    }
    return sorted(found, key=lambda kind: kind.__name__)


def valid(kind: type[Any]) -> Any:
    """An instance to change one field of."""
    if kind.__module__.startswith("retentive.models.") and hasattr(kind, "family") and kind.__name__ not in NEEDED:
        return small_config(kind.family)
    if kind.__name__ == "DecoderConfig":
        return small_config("retnet").decoder
    needed = NEEDED.get(kind.__name__, {"max_new_tokens": 3} if "max_new_tokens" in fields_of(kind) else {})
    return kind(**needed)


def fields_of(kind: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind, localns={"torch": torch})
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.init}


def plain(hint: Any) -> Any:
    """The one type of a hint beside None; the hint itself where there are several."""
    options = [option for option in typing.get_args(hint) if option is not type(None)]
    is_union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    return options[0] if is_union and len(options) == 1 else hint


def test_every_config_refuses_values_of_another_type_by_name():
    tried, faults = 0, list[str]()
    for kind in configs():
        if kind.__name__ in OF_OTHERS or kind.__subclasses__():  # whose fields are tried in each of those
            continue
        if not hasattr(kind, "__post_init__"):
            if not kind.__module__.startswith("retentive.cli."):  # what the parser of options checks
                faults += [f"{kind.__name__}.{name}" for name, of in fields_of(kind).items() if plain(of) in WRONG]
            continue
        good = valid(kind)
        for name, hint in fields_of(kind).items():
            expected = plain(hint)
            wrong: tuple[Any, ...] = WRONG.get(expected, ())
            if typing.get_origin(expected) is typing.Literal:
                wrong = ("hot", 3, ["hot"])
            if getattr(expected, "__name__", "").endswith("Config"):
                wrong = ({},)
            for value in wrong:
                tried += 1
                shown = "a huge number" if value is HUGE else repr(value)
                try:
                    dataclasses.replace(good, **{name: value})
                    faults.append(f"{kind.__name__} takes {name}={shown}")
                except (ValueError, TypeError) as error:
                    if not re.search(rf"{name} must be .*but is", str(error)):
                        faults.append(f"{kind.__name__} says of {name}={shown}: {error}")
    assert not faults, "\n".join(faults)
    assert tried > 500


def public_calls() -> list[tuple[str, Callable[..., Any]]]:
    """Everything that can be called, by its name on the pages of the API."""
    names = re.findall(r"^::: (\S+)", "\n".join(page.read_text() for page in API.glob("*.md")), re.MULTILINE)
    found: list[tuple[str, Callable[..., Any]]] = []
    for name in names:
        module, _, last = name.rpartition(".")
        thing = getattr(importlib.import_module(module), last)
        if inspect.isfunction(thing):
            found.append((name, thing))
        elif inspect.isclass(thing) and not dataclasses.is_dataclass(thing) and not getattr(thing, "_is_protocol", 0):
            found.append((name, thing))
            methods = inspect.getmembers(thing, inspect.ismethod)  # of classes: their other constructors
            found += [(f"{name}.{method}", call) for method, call in methods if not method.startswith("_")]
    return [(name, call) for name, call in found if not name.startswith("retentive.compat.")]


def config_parameters() -> list[tuple[str, Callable[..., Any], str]]:
    found: list[tuple[str, Callable[..., Any], str]] = []
    for name, call in public_calls():
        if inspect.isclass(call) and (call.__name__ in OF_OTHERS or call.__init__ is object.__init__):
            continue
        of = call.__init__ if inspect.isclass(call) else call
        for parameter in inspect.signature(of).parameters.values():
            kinds = (parameter.annotation, *typing.get_args(parameter.annotation))
            if any(getattr(kind, "__name__", "").endswith("Config") for kind in kinds):
                found.append((name, call, parameter.name))
    return found


TAKES_A_DICT = {"RetentiveForCausalLM", "RetentiveForSequenceClassification", "from_pretrained"}
TAKES_ANY_CONFIG = {"Block", "DecoderModel", "register_mixer"}
"""What is built of parts from outside: they are asked what they can do."""


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        pytest.param(call, argument, id=f"{name}-{argument}")
        for name, call, argument in config_parameters()
        if call.__name__ not in TAKES_A_DICT | TAKES_ANY_CONFIG
        if argument != "norm"  # handed on to `Norm`, after the config
    ],
)
def test_a_dict_for_a_config_is_refused_by_name(call: Callable[..., Any], argument: str):
    of = call.__init__ if inspect.isclass(call) else call
    needed = [
        parameter.name
        for parameter in inspect.signature(of).parameters.values()
        if parameter.default is parameter.empty and parameter.name not in ("self", argument)
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
    good = {"backbone": small_model("retnet"), "model": small_config("retnet"), "config": CurriculumConfig(**STAGES)}
    others: dict[str, Any] = {name: good.get(name, 2) for name in needed}
    with pytest.raises((TypeError, ValueError), match=rf"^({argument}|config)\b.* must be .*, but is a dict"):
        call(**{argument: {"vocab_size": 3}, **others})


def cut_at(length: Any) -> Any:
    from retentive.training.step.pieces import cut_text

    tokens = random_tokens(1, 6)
    return cut_text(small_model("retnet"), tokens, tokens, length=length)


def on_words(name: str, value: Any) -> Any:
    """A call of an operator on a few numbers."""
    from retentive import ops
    from retentive.ops.cross_entropy import linear_cross_entropy

    if name == "linear_cross_entropy":
        return linear_cross_entropy(
            torch.ones(2, 3), torch.ones(4, 3), torch.zeros(2, dtype=torch.long), chunk_size=value
        )
    read = torch.ones(1, 2, 4, 2)
    decay = {"log_decay": torch.full((1, 2, 4), -0.1)} if name.startswith("gated") else {}
    module = importlib.import_module(f"{ops.__name__}.{'gated_retention' if decay else 'retention'}")
    return getattr(module, name)(read, read, read, **decay, chunk_size=value)


Count = tuple[str, tuple[str, Callable[[Any], Any]]]
"""A count that is taken outside of configs: its label, its name in the message, and a call that takes it."""


def one(call: Callable[..., Any], good: dict[str, Any], *given: Any, **said: str) -> Iterator[Count]:
    """Each of some counts, the others being good."""
    for name in good:
        if name != "seed":
            label = f"{getattr(call, '__name__', 'call')}.{name}"
            yield label, (said.get(name, name), lambda value, name=name: call(*given, **{**good, name: value}))


def counts_of_tasks() -> Iterator[Count]:
    from retentive.data.tasks.synthetic import associative_recall, cipher, repeat_copy
    from retentive.experiments.recall.questions import make_trials
    from retentive.training.run.fit import fit

    model, nothing, stages = small_model("retnet"), typing.cast("Any", None), CurriculumConfig(**STAGES)
    copy = {"batch_size": 2, "length": 3, "num_symbols": 4, "seed": 0}
    recalled = {"batch_size": 2, "num_pairs": 2, "num_keys": 4, "num_values": 4, "seed": 0}
    ciphered = {"batch_size": 2, "num_symbols": 6, "chunk_size": 4, "seed": 0}
    trials = {"count": 2, "length": 8, "segment_length": 4, "seed": 0}
    yield from one(repeat_copy, copy, 0)
    yield from one(associative_recall, recalled, 0)
    yield from one(cipher, ciphered, 0)
    yield from one(make_trials, trials, count="trials", length="lengths")
    yield from one(fit, {"steps": 1, "windows_per_graph": 1}, model, lambda step: repeat_copy(step, **copy))
    yield from one(fit_curriculum, {"segment_length": 2, "max_steps": 1, "extra_steps": 0}, model, nothing, stages)


def counts_of_evaluation() -> Iterator[Count]:
    from retentive.evaluation.measures.documents import select_documents
    from retentive.evaluation.measures.scoring import score_in_one_pass
    from retentive.evaluation.measures.speed import measure_speed
    from retentive.generation import OwnNeighbours, StoreRetriever

    model, nothing = small_model("retnet"), typing.cast("Any", None)

    def score(**counts: Any) -> list[Any]:
        return list(score_in_one_pass(model, nothing, **counts))

    speed = {"batch_size": 1, "tokens_per_turn": 1, "repetitions": 1}
    yield from one(generate, {"max_new_tokens": 1}, model, [1])
    yield from one(stream, {"max_new_tokens": 1}, model, [1])
    yield from one(model, {"logits_to_keep": 1}, random_tokens(1, 4))
    yield from one(partial(measure_speed, {"a": model}, contexts=[4]), speed)
    yield from one(select_documents, {"max_documents": 1, "max_bytes": 1, "max_document_bytes": 1}, nothing)
    yield from one(score, {"chunk_size": 4, "batch_size": 1})
    yield from one(StoreRetriever, {"k": 1}, nothing)
    yield from one(OwnNeighbours, {"chunk_size": 1}, [[1]])


def counts_of_parts() -> Iterator[Count]:
    from retentive.layers.norm import Norm, NormConfig
    from retentive.models.rmt.classifier import RecurrentMemoryClassifier
    from retentive.nucleotides.model import symmetric_segments
    from retentive.ops.retention.decay import log_decay_geometric, log_decay_linspace
    from retentive.ops.rotary import rotary_frequencies

    yield from one(symmetric_segments, {"length": 3, "segment_length": 2})
    yield from one(partial(RecurrentMemoryClassifier, small_config("rmt")), {"num_classes": 2})
    yield from one(partial(Norm, config=NormConfig()), {"size": 2})
    yield from one(log_decay_geometric, {"num_heads": 2})
    yield from one(log_decay_linspace, {"num_heads": 2})
    yield from one(rotary_frequencies, {"dim": 2})
    yield "cut_text.length", ("length of a piece", cut_at)
    forms = ("retention", "retention_chunkwise", "gated_retention", "gated_retention_chunkwise")
    for name in ("linear_cross_entropy", *forms):
        yield f"{name}.chunk_size", ("chunk_size", partial(on_words, name))


def test_a_count_is_a_whole_number_that_means_something():
    faults: list[str] = []
    for label, (name, call) in (*counts_of_tasks(), *counts_of_evaluation(), *counts_of_parts()):
        for value in NO_COUNTS:
            try:
                call(value)
                faults.append(f"{label} takes {value!r}")
            except Exception as error:
                if not isinstance(error, ValueError) or f"{name} must be " not in str(error):
                    faults.append(f"{label} says of {value!r}: {error!r}")
    assert not faults, "\n".join(faults)


def test_the_checks_name_the_cure():
    @dataclasses.dataclass
    class InnerConfig:
        size: int = 1

    @dataclasses.dataclass
    class OuterConfig:
        inner: InnerConfig
        place: Path = HERE
        rate: float = 1

    check_types(OuterConfig(InnerConfig()))
    with pytest.raises(ValueError, match=r"x.inner must be an InnerConfig, but is .*: give InnerConfig\(\*\*values\)"):
        check_types(OuterConfig(typing.cast("Any", {"size": 2})), "x.")
    with pytest.raises(ValueError, match=r"place must be a Path, but is 'a' \(str\): give Path\('a'\)"):
        check_types(OuterConfig(InnerConfig(), typing.cast("Any", "a")))
    with pytest.raises(TypeError, match=r"inner must be an InnerConfig or None, but is an int\."):
        check_kind("inner", 3, InnerConfig, type(None))
