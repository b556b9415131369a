"""The command line: ``moai COMMAND``, or ``python -m moai COMMAND``.

A command is a function that adds its options to a parser and names what to run; `COMMANDS` lists them.
"""

import argparse
import os
import sys
from collections.abc import Sequence

INTERRUPTED = 130
BROKEN_PIPE = 141


def _bench(parser: argparse.ArgumentParser) -> None:
    from .bench.options import add_options, settings_from

    def run(arguments: argparse.Namespace) -> int:
        from .bench.errors import BadInput, RunFailed
        from .bench.job import run as run_job

        try:
            results = run_job(settings_from(arguments))
        except (BadInput, RunFailed) as error:
            print(f"moai bench: {error}", file=sys.stderr)
            return error.status
        return INTERRUPTED if results["interrupted"] else 0

    add_options(parser)
    parser.set_defaults(run=run)


COMMANDS = {
    "bench": ("train a byte-level language model and report speed, memory and loss", _bench),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` names and return the exit status: 2 for bad input, 130 for Ctrl-C."""
    parser = argparse.ArgumentParser(prog="moai", description="One PyTorch device that stands for a cluster.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (text, add) in COMMANDS.items():
        add(commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + "."))
    arguments = parser.parse_args(argv)
    try:
        return arguments.run(arguments)
    except KeyboardInterrupt:
        print("moai: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; nothing more can be said, not even by the interpreter's last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


if __name__ == "__main__":
    sys.exit(main())
