"""``retentive serve`` against a plain loop of ``generate`` behind the same HTTP layer: ``python -m benchmarks.serve``.

Eight clients stream at once; and a session comes back after texts of 100 to 100,000 tokens. Where ``make smollm2`` has
been run, eight clients stream from SmolLM2 too, against ``transformers serve`` with the same weights, as it begins by
itself and with continuous batching, which takes 14 GB of memory there. Writes
``runs/bench/serve.json``, ``.md`` and ``.png`` and prints a table. The machine should have nothing else to do.
"""

import atexit
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.racing import machine
from benchmarks.racing.command import run_benchmark
from benchmarks.racing.interleave import Contestant, Ratio, Task
from benchmarks.racing.measuring import Measuring
from benchmarks.racing.plan import TINY, ModelPlan, ours
from benchmarks.racing.results import Results
from benchmarks.reports.serve import draw
from benchmarks.smollm2 import FILE, FOLDER
from retentive import save_model
from retentive.models.registry import build, config_from_dict
from retentive.text.byte_tokenizer import ByteTokenizer

SERVED, PLAIN, MEMORY = "retentive serve", "a loop of generate", "retentive serve, recurrent memory"
SMOLLM2, PLAIN_SMOLLM2, THEIRS = (f"{what}, SmolLM2" for what in (SERVED, PLAIN, "transformers serve"))
THEIRS_BATCHED = "transformers serve --continuous-batching, SmolLM2"
STREAMS_TARGET, RETURN_TARGET = 2.5, 1.2
SIZE_TARGET = 1.01  # constant, but for what the file says of the last words


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(ModelPlan):
    """Sizes of the model and of the works, and how often each is done.

    Attributes:
        clients: That stream at once.
        tokens: Of each stream.
        texts: Tokens that a session has before it comes back.
        pretrained_tokens: Of each stream of SmolLM2.
        pretrained_rounds: Of its race.
    """

    clients: int = 8
    tokens: int = 64
    pretrained_tokens: int = 32
    pretrained_rounds: int = 5
    # Each as far into a segment of the recurrent memory, whose state has the keys and values of the one that is read.
    texts: tuple[int, ...] = (100, 100 + 4 * 256, 100 + 39 * 256, 100 + 391 * 256)
    matrix_size: int = 4096


FULL = Plan()
QUICK = Plan(**TINY, clients=2, tokens=4, texts=(100, 400), pretrained_tokens=4, pretrained_rounds=1)


def contestants(plan: Plan, *, threads: int, with_yardstick: bool) -> list[Contestant]:
    """Who competes, the machine itself included; models of random weights are saved for them."""
    folder = Path(tempfile.mkdtemp(prefix="retentive-bench-serve-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    tokenizer = ByteTokenizer()
    retnet = {"family": "retnet", **plan.sizes(), "vocab_size": tokenizer.vocab_size}
    memory = {
        "family": "rmt",
        "backbone": {**retnet, "family": "transformer"},
        "segment_length": 256,
        "num_memory_tokens": 8,
    }
    for name, config in (("retnet", retnet), ("rmt", memory)):
        torch.manual_seed(0)
        save_model(build(config_from_dict(config)), folder / name, tokenizer)
    found = [machine.contestant(threads=threads)]
    kinds = [(SERVED, "retentive", "retnet"), (MEMORY, "retentive", "rmt"), (PLAIN, "plain", "retnet")]
    if has_smollm2():
        _save_as_llama(folder / "llama")
        kinds += [
            (SMOLLM2, "retentive", str(FOLDER)),
            (PLAIN_SMOLLM2, "plain", str(FOLDER)),
            (THEIRS, "transformers", "llama"),
            (THEIRS_BATCHED, "transformers batched", "llama"),
        ]
    else:
        print("SmolLM2 is left out: it needs make smollm2")
    for name, kind, model in kinds:
        options = {"kind": kind, "model": str(folder / model), "sessions": str(folder / f"sessions-{name}")}
        found.append(ours(name, "served_model", **options))
    return found


def _save_as_llama(folder: Path) -> None:
    """The weights as a folder of transformers, which neither serves nor saves what it has read from GGUF."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    read: Any = AutoModelForCausalLM.from_pretrained(FILE.parent, gguf_file=FILE.name, dtype=torch.float32)
    AutoConfig.from_pretrained(FILE.parent, gguf_file=FILE.name).save_pretrained(folder)
    plain = LlamaForCausalLM(AutoConfig.from_pretrained(folder))
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(FILE.parent, gguf_file=FILE.name).save_pretrained(folder)


class Benchmark(Measuring[Plan]):
    """Runs the races of a plan in an arena and collects what they show."""

    def run(self) -> None:
        """Measure everything."""
        plan = self.plan
        streams = {"count": plan.clients, "tokens": plan.tokens}
        tasks = {name: Task(contestant=name, work="streams", arguments=streams) for name in (SERVED, PLAIN)}
        race = self.race(f"{plan.clients} streams", tasks, plan.rounds)
        ratio = race.times_as_fast(SERVED, PLAIN)
        self.row(f"tokens per second of {plan.clients} streams", PLAIN, ratio, STREAMS_TARGET, "least")
        if has_smollm2():
            self._pretrained()
        for name in (SERVED, MEMORY):
            self._returning(name)
        self.race("machine", plan.machine_tasks(), plan.rounds)

    def _pretrained(self) -> None:
        """The same of SmolLM2, whose weights transformers serves too."""
        plan = self.plan
        streams = {"count": plan.clients, "tokens": plan.pretrained_tokens}
        names = (SMOLLM2, PLAIN_SMOLLM2, THEIRS, THEIRS_BATCHED)
        tasks = {name: Task(contestant=name, work="streams", arguments=streams) for name in names}
        race = self.race(f"{plan.clients} streams of SmolLM2", tasks, plan.pretrained_rounds)
        for opponent in names[1:]:
            ratio = race.times_as_fast(SMOLLM2, opponent)
            target = None if opponent == THEIRS_BATCHED else STREAMS_TARGET  # it does not take one after the other
            self.row(f"tokens per second of {plan.clients} streams, SmolLM2", opponent, ratio, target, "least")

    def _returning(self, name: str) -> None:
        """The first token of a session does not wait for what it has read."""
        texts = self.plan.texts
        tasks = {
            f"{name}, {tokens} tokens": Task(contestant=name, work="returning", arguments={"tokens": tokens})
            for tokens in texts
        }
        race = self.race(f"first token, {name}", tasks, self.plan.rounds)
        first, last = (f"{name}, {tokens} tokens" for tokens in (texts[0], texts[-1]))
        growth = race.times_as_fast(first, last)
        self.row(f"first token after {texts[-1]:,} tokens, {name}", f"{texts[0]} tokens", growth, RETURN_TARGET, "most")
        larger = race.facts[last]["state_bytes"] / race.facts[first]["state_bytes"]
        grown = Ratio(median=larger, lower_quartile=larger, upper_quartile=larger, rounds=1)
        self.row(
            f"bytes of a session of {texts[-1]:,} tokens, {name}", f"{texts[0]} tokens", grown, SIZE_TARGET, "most"
        )

    def results(self, description: dict[str, Any]) -> Results:
        """Everything that was measured, as the report takes it."""
        return self.collected(description, "machine")


def has_smollm2() -> bool:
    """Whether the converted model is there."""
    return (FOLDER / "config.json").exists()


def main() -> None:
    """Run the benchmark, write its results and print its table."""
    run_benchmark("serve", __doc__, full=FULL, quick=QUICK, contestants=contestants, benchmark=Benchmark, draw=draw)


if __name__ == "__main__":
    main()
