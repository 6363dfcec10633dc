"""The command ``retentive``: run what was typed, and end every mistake in one line that says the cure.

This file imports next to nothing, so that Ctrl-C while Python still loads the rest shows no traceback.
"""

import io
import os
import sys


def main(arguments: list[str] | None = None) -> None:
    """Run ``retentive COMMAND OPTIONS``; exit with 0, with 2 after a mistake of the user's, with 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _prepare_streams()
    try:
        from retentive.cli.registry import run_or_explain

        run_or_explain(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        _end_after_interrupt()
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        _lose_output()
        sys.exit(0)
    except SystemExit:  # of a help text, which may have lost its reader, too
        _give_up_output()
        raise
    except Exception as error:
        from retentive.cli.mistakes import TRACEBACK, explanation, is_first_to_say

        _give_up_output()
        said = explanation(error)
        if said is None or os.environ.get(TRACEBACK):
            raise
        if is_first_to_say(said):
            print(f"retentive: {said}", file=sys.stderr)
        sys.exit(2)


def _prepare_streams() -> None:
    """Open what is closed (``>&-``), and let characters that the output's encoding lacks be written by their numbers.

    Otherwise the first line that is printed, which may be that of a result, would be an error.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _give_up_output() -> None:
    """Lose what standard output does not take, as on a full disk: Python would tell of it once more at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        _lose_output()


def _lose_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end_after_interrupt() -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would print a traceback
    _give_up_output()
    print("\nretentive: stopped.", file=sys.stderr)
    sys.exit(130)


if __name__ == "__main__":
    main()
