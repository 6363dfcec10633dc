"""Checks that the fields of the training configs share; each message names the option."""


def check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} must be above 0, but is {value}.")
