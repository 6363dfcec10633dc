"""The options of a training run; every attribute is an option of ``retentive train``."""

# No slots here: the command line's parser reads the defaults of a nested config through its ``__dict__``.

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from retentive.config_types import check_choice, check_count, check_types
from retentive.retrieval.encoders import ENCODERS
from retentive.training.objectives.next_token import NextTokenConfig
from retentive.training.objectives.protocol import ObjectiveConfig
from retentive.training.objectives.registry import objective_name
from retentive.training.step.config import OptimizerConfig, ScheduleConfig


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How the text is cut into batches.

    Attributes:
        mode: "packed" draws windows from anywhere in the text, in a new order each epoch, and every window begins with
            an empty state. "streamed" reads documents from beginning to end, window after window, and carries the
            state from each to the next.
        window: Length of a window in tokens.
        batch_size: Windows side by side in one step, over all processes and accumulated parts together. The same
            number gives the same steps on one process and on many, apart from rounding and dropout: each process
            and each part draws its own dropout.
        windows_per_graph: For "streamed": consecutive windows of one step, through which gradients flow back. The state
            is carried beyond them; gradients are not.
    """

    mode: Literal["packed", "streamed"] = "packed"
    window: int = 512
    batch_size: int = 16
    windows_per_graph: int = 1

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self, "data.")
        check_count("data.window", self.window, 1, "token")
        check_count("data.batch_size", self.batch_size, 1, "window")
        check_count("data.windows_per_graph", self.windows_per_graph, 1, "window")
        if self.mode == "packed" and self.windows_per_graph != 1:
            raise ValueError(
                f"data.windows_per_graph must be 1 with data.mode='packed', whose windows do not follow one "
                f"another, but is {self.windows_per_graph}; leave it out, or set data.mode to 'streamed'."
            )

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one step reads."""
        return self.batch_size * self.window * self.windows_per_graph


@dataclass(frozen=True, kw_only=True)
class NeighbourDataConfig:
    """Which neighbours a model that reads neighbours is given; other models refuse these options.

    Attributes:
        folder: Folder of the datastores; null is "neighbours" in the store's folder. Missing ones are
            built: for every chunk of both splits, its neighbours among the training documents.
        k: Neighbours of a chunk.
        encoder: What chunks are compared by: "lexical" (their words, BM25), "dense" (vectors), "hybrid" (both), or
            another name in retentive.retrieval.ENCODERS.
        model: For "dense" and "hybrid": folder or hub id of a Hugging Face encoder.
        near_duplicates: Jaccard similarity of 13-token runs from which chunks and documents count as copies, which
            are not given as neighbours (0.8 in the RETRO paper); null excludes exact copies only.
        aligned: Shift each neighbour so that its longest run in common with the chunk stands at the chunk's own place,
            which helps where texts are revisions of one another.
        copies: With aligned: shift exact copies of chunks of the same document too, which is what revisions leave
            unchanged; without it they stay where they were, and other neighbours alone are shifted.
        share_without: Share of samples that are given no neighbours, 0 to 1, so that the model keeps working
            without them.
        own_text_steps: Teach copying, which a small corpus hardly does: all samples find their own text, shifted by
            some tokens, in one of their neighbours, until it lowers the held-out loss by a tenth, or for this many
            steps at most; then their share falls to 0 in as many steps as it was held. 0 gives none their own text.
    """

    folder: Path | None = None
    k: int = 2
    encoder: str = "lexical"
    model: str | None = None
    near_duplicates: float | None = None
    aligned: bool = False
    copies: bool = False
    share_without: float = 0.0
    own_text_steps: int = 0

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self, "neighbours.")
        check_count("neighbours.k", self.k, 1, "neighbour")
        check_choice("neighbours.encoder", self.encoder, tuple(ENCODERS))
        needs_model = self.encoder in ("dense", "hybrid")
        if self.encoder in ("lexical", "dense", "hybrid") and needs_model == (self.model is None):
            raise ValueError(
                f"neighbours.model must be a folder or hub id for 'dense' and 'hybrid' and null for 'lexical', but is "
                f"{self.model!r} for {self.encoder!r}."
            )
        if self.copies and not self.aligned:
            raise ValueError("neighbours.copies must be false where neighbours.aligned is, which alone shifts them.")
        if not 0 <= self.share_without <= 1:
            raise ValueError(f"neighbours.share_without must be from 0 to 1, but is {self.share_without}.")
        check_count("neighbours.own_text_steps", self.own_text_steps, 0, "step")


@dataclass(frozen=True, kw_only=True)
class HeldOutConfig:
    """Evaluation on held-out text during training.

    Attributes:
        every: Steps between evaluations; there is one more after the last step. Null never evaluates.
        windows: Windows of ``data.window`` tokens in one evaluation, the same ones every time: this many, or all of the
            held-out split if it has fewer.
    """

    every: int | None = 500
    windows: int = 64

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self, "held_out.")
        if self.every is not None:
            check_count("held_out.every", self.every, 1, "step")
        check_count("held_out.windows", self.windows, 1, "window")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Which checkpoints are written and kept.

    Attributes:
        every: Steps between checkpoints; there is one more after the last step, and one on Ctrl-C.
        keep_last: Number of newest checkpoints that are kept.
        keep_best: Also keep a checkpoint of the step with the lowest held-out loss.
        weights: Which weights are written to the folder "model" of the run at its end: "last" or "best".
    """

    every: int = 500
    keep_last: int = 2
    keep_best: bool = True
    weights: Literal["last", "best"] = "last"

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self, "checkpoints.")
        check_count("checkpoints.every", self.every, 1, "step")
        check_count("checkpoints.keep_last", self.keep_last, 1, "checkpoint")
        if self.weights == "best" and not self.keep_best:
            raise ValueError("checkpoints.keep_best must be true for checkpoints.weights='best'.")


@dataclass(frozen=True, kw_only=True)
class HardwareConfig:
    """The hardware of a run and how it is used.

    A run may be resumed with other values of everything but the precision: nothing else here changes what is learned,
    apart from rounding and what dropout draws.

    Attributes:
        device: "cpu", "cuda", or "auto": a GPU where there is one. Under torchrun each process takes its own GPU.
        strategy: How several processes share the work: "ddp" keeps a copy of everything in each of them, "fsdp" keeps
            a shard of parameters, gradients and optimizer state. Has no effect with one process.
        precision: Of products: "float32", "bfloat16", or "auto": bfloat16 where the GPU has it, or where the CPU has
            instructions for it (such as AVX512-BF16 or AMX) and is measured to be faster with them, if a call's tokens
            times squared width are at least a million and a CPU's model is not sharded; float32 elsewhere. Parameters,
            optimizer, recurrent states and decays stay float32; keys and values are bfloat16, and with "fsdp" all that
            runs from block to block. A run that goes on keeps what it was begun with.
        sequence_parallel: Processes that read the same windows, each a part of every one, so that the memory of a
            window's activations falls with their number; "--hardware.sequence_parallel 2" on four processes has two
            such groups. Attention without a window keeps all keys and values in each of them. Not for models that read
            a text in order (recurrent memory, RETRO). 1 gives each process windows of its own.
        accumulation: Parts that each process cuts its share of a batch into, one after another, to save memory.
        backpropagation: How gradients go back through a step: "plain" keeps the activations of all windows; "recompute"
            keeps only what goes into each block (or, with recurrent memory, into each segment) and computes the rest
            again in the backward pass; "replay" keeps only the states between windows and computes each window again
            (needs data.windows_per_graph above 1).
        workers: Processes that make batches ahead, while a step runs; 0 makes each batch when it is needed.
        compile: Whether the model's blocks run through "torch.compile", which needs a C++ compiler and takes a minute
            or more before the first step. Not with "fsdp".
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    strategy: Literal["ddp", "fsdp"] = "ddp"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    sequence_parallel: int = 1
    accumulation: int = 1
    backpropagation: Literal["plain", "recompute", "replay"] = "plain"
    workers: int = 0
    compile: bool = False

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self, "hardware.")
        check_count("hardware.sequence_parallel", self.sequence_parallel, 1, "process")
        check_count("hardware.accumulation", self.accumulation, 1, "part")
        check_count("hardware.workers", self.workers, 0, "worker")
        if self.compile and self.strategy == "fsdp":
            raise ValueError(
                "hardware.compile must be false with hardware.strategy='fsdp', whose shards are gathered by hooks that "
                "compiled code would leave out; take 'ddp'."
            )
        if self.compile and self.sequence_parallel > 1:
            raise ValueError(
                f"hardware.compile must be false with hardware.sequence_parallel={self.sequence_parallel}, whose "
                "processes exchange states in the middle of what would be compiled."
            )


@dataclass(frozen=True, kw_only=True)
class MetricsConfig:
    """Metrics written during training, to "metrics.jsonl" in the run's folder.

    Attributes:
        every: Steps between lines; loss, bits per byte, speed and the share of time in which a step waited for its
            batch (data_wait_share) are means over these steps.
        tensorboard: Also write TensorBoard events into the folder "tensorboard" of the run.
    """

    every: int = 10
    tensorboard: bool = False

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self, "metrics.")
        check_count("metrics.every", self.every, 1, "step")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train a model on the tokens of a store.

    Started again in the same folder, a run resumes from its newest checkpoint.

    Attributes:
        store: Folder that "retentive prepare" wrote.
        run: Folder of this run: config, metrics, checkpoints, and the model at the end.
        steps: Steps of the optimizer in all. A finished run goes on with a higher number.
        seed: Decides the initial weights, the order of the data, what dropout drops and what the objective draws.
        objective: What is minimised: the config of an objective in `OBJECTIVES`, such as `MaskedTokensConfig`. On the
            command line its name, with its options below the name: ``--objective distillation
            --distillation.teacher FOLDER``.
        retrofit: Folder of a trained model that becomes the frozen backbone of a RETRO (RETROfit) or of a recurrent
            memory: only the parts that read neighbours, or the memory, are trained. Null trains all weights.
        init: Folder of a saved model whose weights the run begins with; its config and its tokenizer are those of this
            run. Null begins with new weights.
        lora_rank: Rank of a change of the mixers' projections (LoRA, arXiv:2106.09685) that learns in place of the
            decoder of ``retrofit`` or ``init``, beside a memory around it; the saved weights hold it. 0 has none.
        data: How the text is cut into batches.
        neighbours: Which neighbours a model that reads neighbours is given.
        optimizer: How a step changes the weights.
        schedule: The learning rate over the steps.
        held_out: Evaluation on held-out text during training.
        checkpoints: Which checkpoints are written and kept.
        hardware: The hardware and how it is used.
        metrics: Metrics written during training.
    """

    store: Path
    run: Path
    steps: int
    seed: int = 0
    objective: ObjectiveConfig = NextTokenConfig()
    retrofit: Path | None = None
    init: Path | None = None
    lora_rank: int = 0
    data: DataConfig = DataConfig()
    neighbours: NeighbourDataConfig = NeighbourDataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    held_out: HeldOutConfig = HeldOutConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    hardware: HardwareConfig = HardwareConfig()
    metrics: MetricsConfig = MetricsConfig()

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        check_count("steps", self.steps, 1, "step")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be from 0 to 2**32 - 1, but is {self.seed}.")
        objective_name(self.objective)
        if self.init is not None and self.retrofit is not None:
            raise ValueError(
                f"init and retrofit both say which weights the run begins with, {self.init} and {self.retrofit}: "
                "leave one out."
            )
        check_count("lora_rank", self.lora_rank, least=0)
        if self.lora_rank and self.init is None and self.retrofit is None:
            raise ValueError(
                f"lora_rank must be 0 for new weights, of which nothing is to be kept, but is {self.lora_rank}; name "
                "a trained model as init or retrofit."
            )
        if self.lora_rank and self.hardware.strategy == "fsdp":
            raise ValueError(
                f"lora_rank must be 0 with hardware.strategy='fsdp', but is {self.lora_rank}: what learns is small, so "
                "take 'ddp'."
            )
        if self.schedule.warmup_until(self.decay_steps) >= self.decay_steps:
            raise ValueError(
                f"schedule.warmup_steps must be below the steps of the run, {self.decay_steps}, but is "
                f"{self.schedule.warmup_steps}; a tenth of them is a good start."
            )
        if self.data.window < self.hardware.sequence_parallel:
            raise ValueError(
                f"data.window must be at least hardware.sequence_parallel, {self.hardware.sequence_parallel}, so that "
                f"each process has a token to read, but is {self.data.window}."
            )
        if self.hardware.backpropagation == "replay" and self.data.windows_per_graph == 1:
            raise ValueError(
                "data.windows_per_graph must be above 1 for hardware.backpropagation='replay', which replays windows, "
                "but is 1; stream several windows a step."
            )
        if self.checkpoints.weights == "best" and self.held_out.every is None:
            raise ValueError("held_out.every must be a number of steps for checkpoints.weights='best', but is null.")

    @property
    def decay_steps(self) -> int:
        """Step at which the learning rate is at its lowest."""
        return self.steps if self.schedule.decay_steps is None else self.schedule.decay_steps
