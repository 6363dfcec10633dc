"""The command ``retentive``: run what was typed, and end every mistake in one line that says the cure.

This file imports next to nothing, so that Ctrl-C while Python still loads the rest shows no traceback.
"""

import sys


def main(arguments: list[str] | None = None) -> None:
    """Run ``retentive COMMAND OPTIONS``; exit with 0, with 2 after a mistake of the user's, with 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        from retentive.cli.registry import run_or_explain

        run_or_explain(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        _end_after_interrupt()
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        import os

        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        import os

        from retentive.cli.mistakes import TRACEBACK, explanation, is_first_to_say

        said = explanation(error)
        if said is None or os.environ.get(TRACEBACK):
            raise
        if is_first_to_say(said):
            print(f"retentive: {said}", file=sys.stderr)
        sys.exit(2)


def _end_after_interrupt() -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would print a traceback
    print("\nretentive: stopped.", file=sys.stderr)
    sys.exit(130)


if __name__ == "__main__":
    main()
