"""What the config of a Hugging Face model says beside its weights: equal weights under another base of rotation, or
another epsilon of norms, are another model.
"""

from collections.abc import Iterator, Mapping
from typing import Any, cast

_WITHOUT_MEANING = frozenset(
    {
        "architectures",
        "dtype",  # of weights, which are compared
        "torch_dtype",
        "id2label",
        "label2id",
        "initializer_range",
        "name_or_path",
        "problem_type",
        "return_dict",
        "transformers_version",
        "use_cache",
    }
)
"""Settings by which a model computes nothing else."""


def settings_of(config: Any) -> dict[str, Any]:
    """What a config of transformers says, values in groups as ``rope_parameters.rope_theta``."""
    return dict(_flattened(config.to_dict(), ""))


def differences(saved: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """What two configs say otherwise, in words; a setting that one of them does not know is another release's."""
    return ", ".join(
        f"{name} was {saved[name]!r} and is {found[name]!r}"
        for name in saved
        if name in found and saved[name] != found[name]
    )


def _flattened(settings: Mapping[str, Any], group: str) -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if (
            name in _WITHOUT_MEANING
            or name.startswith(("_", "output_"))
            or name.endswith("_token_id")
            or "drop" in name
        ):
            continue
        if isinstance(value, dict):
            yield from _flattened(cast("dict[str, Any]", value), f"{group}{name}.")
        elif isinstance(value, bool | int | float | str | list):
            yield f"{group}{name}", value
