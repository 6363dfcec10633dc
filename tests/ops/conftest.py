import jaxtyping
import pytest


@pytest.fixture
def without_shape_checks():
    """Let arguments of wrong shapes and dtypes reach our own checks, as they do for users."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
