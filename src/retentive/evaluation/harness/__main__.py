"""The harness's own command, ``lm_eval``, with our models among those that it knows.

``python -m retentive.evaluation.harness --model retentive --model_args pretrained=FOLDER --tasks NAME`` runs it once.
After ``python -m retentive.evaluation.harness --install`` the command ``lm_eval`` itself knows our models.
"""

import sys

from retentive.evaluation.harness.command import install, uninstall
from retentive.evaluation.harness.tasks import require_harness


def main() -> None:
    """Run the harness's own command with our models registered, or ``--install`` and ``--uninstall`` them there."""
    require_harness()
    if sys.argv[1:] in (["--install"], ["--uninstall"]):
        try:
            print(install() if sys.argv[1] == "--install" else uninstall())
        except OSError as error:
            sys.exit(f"error: {error.strerror}")
        return
    from lm_eval.__main__ import cli_evaluate

    from retentive.evaluation.harness.model import RetentiveLM

    assert RetentiveLM  # importing it has registered it

    cli_evaluate()


if __name__ == "__main__":
    main()
