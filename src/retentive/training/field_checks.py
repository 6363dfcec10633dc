"""Checks that the fields of the training configs share; each message names the option."""


def check_at_least(name: str, value: int, least: int, unit: str) -> None:
    if value < least:
        raise ValueError(f"{name} must be at least {least} {unit}{'s' if least != 1 else ''}, but is {value}.")


def check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} must be above 0, but is {value}.")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be {' or '.join(map(repr, choices))}, but is {value!r}.")
