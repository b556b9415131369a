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
        from .bench import job, scaling, story
        from .bench.errors import BadInput, RunFailed

        settings = settings_from(arguments)
        try:
            if settings.preset == "story":
                story.run(settings)
                return 0
            if settings.devices is not None and "," in settings.devices:
                scaling.run(settings)
                return 0
            results = job.run(settings)
        except (BadInput, RunFailed) as error:
            print(f"moai bench: {error}", file=sys.stderr)
            return error.status
        return INTERRUPTED if results["interrupted"] else 0

    add_options(parser)
    parser.set_defaults(run=run)


def _plan(parser: argparse.ArgumentParser) -> None:
    from .planning.command import add_options, run

    add_options(parser)
    parser.set_defaults(run=run)


def _calibrate(parser: argparse.ArgumentParser) -> None:
    from .planning.calibrate import add_options, run

    add_options(parser)
    parser.set_defaults(run=run)


def _smi(parser: argparse.ArgumentParser) -> None:
    from .smi import add_options, run

    add_options(parser)
    parser.set_defaults(run=run)


EPILOG = """\
moai COMMAND --help says what a command takes. In a script, moai is a device:

  model.to("moai")
"""
BENCH_EPILOG = """\
examples:
  moai bench --preset demo
  moai bench --model small --steps 50 --json results.json
  moai bench --model tiny --compare eager,compile
  moai bench --model small --steps 20 --devices 1,2,4
  moai bench --preset story
  moai bench --checkpoint runs/a --checkpoint-every 100
  moai bench --checkpoint runs/a --resume
"""

PLAN_EPILOG = """\
examples:
  moai plan train.py --cluster h100:8x8 -- --batch-size 64
  moai plan --model llama3-8b --batch 64 --seq 1024 --cluster h100:8x8
  moai plan --model gpt2-xl --batch 32 --seq 1024 --cluster a100-80:8 --json plan.json
"""

CALIBRATE_EPILOG = """\
examples:
  moai calibrate
  moai plan train.py --cluster here:4
"""

SMI_EPILOG = """\
examples:
  moai smi
  moai smi --watch
  moai smi -l 5 --json
"""

COMMANDS = {
    "bench": ("train a byte-level language model; report speed, memory and loss", _bench, BENCH_EPILOG),
    "plan": ("predict a training step on a cluster that is not here", _plan, PLAN_EPILOG),
    "smi": ("show what your moai processes do now", _smi, SMI_EPILOG),
    "calibrate": ("measure this machine, for plans on here:N", _calibrate, CALIBRATE_EPILOG),
}


def _version() -> str:
    import torch

    import moai

    return f"moai {moai.__version__}, torch {torch.__version__}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` names and return the exit status: 2 for bad input, 130 for Ctrl-C."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="moai",
        usage="moai COMMAND [options]",
        description="One PyTorch device that stands for a cluster.",
        epilog=EPILOG,
        formatter_class=shape,
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(title="commands", prog="moai", metavar="COMMAND", dest="command")
    for name, (text, add, epilog) in COMMANDS.items():
        about = text[0].upper() + text[1:] + "."
        usage = f"moai {name} [options]"
        add(
            commands.add_parser(
                name, help=text, usage=usage, description=about, epilog=epilog, formatter_class=shape
            )
        )
    given = list(sys.argv[1:] if argv is None else argv)
    after = []
    if given[:1] == ["plan"] and "--" in given:  # the script's own
        given, after = given[: given.index("--")], given[given.index("--") + 1 :]
    arguments = parser.parse_args(given)
    arguments.after = after
    if arguments.command is None:
        parser.print_help(sys.stderr)
        return 2
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
