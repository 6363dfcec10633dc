"""Training without files: for notebooks, experiments and tests."""

from collections.abc import Callable
from typing import Any, get_args

from retentive.config_types import check_choice, check_count, check_kind
from retentive.data.batch import Batch
from retentive.models.calls import check_is_model
from retentive.models.protocol import LanguageModel
from retentive.training.objectives.labels import LabelsConfig
from retentive.training.objectives.next_token import NextTokenConfig
from retentive.training.objectives.protocol import ObjectiveConfig, Vocabulary
from retentive.training.processes.parallelism import Precision
from retentive.training.processes.processes import alone
from retentive.training.step.config import OptimizerConfig, ScheduleConfig
from retentive.training.step.learner import Learner, StepResult


def fit(
    model: LanguageModel,
    batches: Callable[[int], Batch],
    *,
    steps: int,
    optimizer: OptimizerConfig | None = None,
    schedule: ScheduleConfig | None = None,
    seed: int = 0,
    carries_state: bool = False,
    windows_per_graph: int = 1,
    precision: Precision = "float32",
    objective: ObjectiveConfig | None = None,
) -> list[StepResult]:
    """Train a model in this process, on its device, and return the measurements of each step.

    Args:
        model: Changed in place; it stays on its device.
        batches: Returns the batch with a given number, as ``PackedWindows(...).batch`` does, or a task of
            `retentive.data.tasks.synthetic`.
        steps: Steps of the optimizer.
        optimizer: How a step changes the weights; None is `OptimizerConfig`'s defaults.
        schedule: The learning rate; None has no warm-up and a cosine down to a tenth.
        seed: Decides what dropout drops, and what the objective draws.
        carries_state: Whether the state is carried from batch to batch, as for ``StreamedWindows(...).batch``.
        windows_per_graph: With ``carries_state``, consecutive batches of one step, through which gradients flow back.
        precision: ``bfloat16`` computes products in it; weights stay what they are.
        objective: Config of what is minimised, such as `MaskedTokensConfig`; None is next-token prediction, or for a
            model with a head of another kind (a classifier) the labels of the batches as they are.

    Raises:
        ValueError: If a number cannot be, or the model cannot be trained by the objective.
        DivergedError: If the loss or a gradient is not finite.
    """
    check_kind("optimizer", optimizer, OptimizerConfig, type(None))
    check_kind("schedule", schedule, ScheduleConfig, type(None))
    check_kind("objective", objective, ObjectiveConfig, type(None))
    check_count("steps", steps)
    check_count("seed", seed, least=0)
    check_count("windows_per_graph", windows_per_graph)
    if windows_per_graph > 1 and not carries_state:
        raise ValueError(
            f"carries_state must be True with windows_per_graph={windows_per_graph}, whose windows follow one another; "
            "or leave windows_per_graph at 1."
        )
    check_kind("carries_state", carries_state, bool)
    check_choice("precision", precision, get_args(Precision))
    check_is_model(model)
    if not callable(batches):
        raise TypeError(f"batches must be a function of a batch's number, but is a {type(batches).__name__}.")
    device = next(model.parameters()).device
    vocabulary = Vocabulary(size=model.vocab_size)
    schedule = ScheduleConfig(warmup_steps=0) if schedule is None else schedule
    if objective is None:
        objective = LabelsConfig() if getattr(model, "predicts_labels", False) else NextTokenConfig()
    minimised = objective.build(vocabulary, device)
    options: dict[str, Any] = {"carries_state": carries_state, "objective": minimised, "precision": precision}
    learner = learner_alone(model, optimizer, schedule, steps=steps, seed=seed, **options)
    numbers = (range(step * windows_per_graph, (step + 1) * windows_per_graph) for step in range(steps))
    return [learner.step(step, [[batches(number) for number in some]]) for step, some in enumerate(numbers)]


def learner_alone(
    model: LanguageModel,
    optimizer: OptimizerConfig | None,
    schedule: ScheduleConfig,
    *,
    steps: int,
    seed: int,
    carries_state: bool = False,
    **options: Any,
) -> Learner:
    """Make a `Learner` for this process alone, on the model's device; ``options`` are further ones of `Learner`."""
    decay_steps = steps if schedule.decay_steps is None else schedule.decay_steps
    return Learner(
        model,
        optimizer=OptimizerConfig() if optimizer is None else optimizer,
        schedule=schedule,
        decay_steps=decay_steps,
        seed=seed,
        carries_state=carries_state,
        processes=alone(next(model.parameters()).device),
        **options,
    )
