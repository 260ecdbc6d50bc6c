"""The command ``sitewarden``: parses, runs one family of commands, turns failures into exit codes.

Heavy modules are imported by the command that needs them, so that ``trip`` starts fast.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence

from gateway.cli import (
    audit,
    bypass,
    check,
    export,
    hands,
    letters,
    receive,
    reload,
    run,
    show,
    simulate,
    substitute,
)
from gateway.cli.client import NotReached
from gateway.cli.options import add_directories
from gateway.cli.table import complain, plain, show_json
from gateway.errors import ConfigError, GatewayError, GuardError
from gateway.orders.outcome import Exit, Outcome

DESCRIPTION = (
    "Edge gateway for plants and mines. A supplementary protection layer: it is not a safety "
    "instrumented system and claims no SIL."
)
EPILOG = (
    "exit codes: 0 done, 1 failed, 2 usage or site file refused, 3 gateway or guard not reached, "
    "4 refused by the guard, 5 already so, 6 done but not confirmed in time or unarmed, "
    "130 interrupted"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. Nothing that a user can cause ends in a traceback."""
    _open_what_is_closed()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that the terminal's code page lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return _run(argv)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except EOFError:
        complain("nothing was done: nobody answered")
        return Exit.FAILED
    except BrokenPipeError:
        _drop_output()
        return Exit.FAILED
    except OSError as error:  # what we write is not taken: a full disk
        complain(_told(error))
        _drop_output()
        return Exit.FAILED


def _open_what_is_closed() -> None:
    """A program begun with ``>&-``: no file of ours may get that number, and be printed into."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def _run(argv: Sequence[str] | None) -> int:
    try:
        words = sys.argv[1:] if argv is None else argv
        args = parser(words).parse_args(words)
        try:
            return int(args.run(args))
        except ConfigError as error:
            print("\n".join(plain(line) for line in error.errors), file=sys.stderr)
            return Exit.USAGE
        except (NotReached, GuardError) as error:
            return _failed(args, Exit.NOT_REACHED, str(error))
        except GatewayError as error:
            return _failed(args, Exit.FAILED, str(error))
        except BrokenPipeError:
            raise
        except OSError as error:
            return _failed(args, Exit.FAILED, _told(error))
    finally:
        sys.stdout.flush()  # here, where a reader that has gone is no traceback


def _drop_output() -> None:
    """Nobody takes it; nothing may be written at the interpreter's end either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _told(error: OSError) -> str:
    """The file, where one is known, and the reason."""
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename else reason


def _failed(args: argparse.Namespace, code: Exit, text: str) -> int:
    if getattr(args, "json", False):
        show_json(Outcome(exit_code=code, code=0, text=text))
    else:
        complain(text)
    return code


def parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The command line: the whole of it, unless ``words`` are for a command of a light family."""
    top = argparse.ArgumentParser(prog="sitewarden", description=DESCRIPTION, epilog=EPILOG)
    top.add_argument("--version", action=_Version)
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for family in (run, check):
        family.register(commands)
    _add_demo(commands)
    for family in (
        show,
        hands,
        bypass,
        substitute,
        letters,
        audit,
        export,
        receive,
        reload,
        simulate,
    ):
        family.register(commands)
    if next((word for word in words if word[:1] != "-"), "") not in commands.choices:
        _add_heavy(commands)
    return top


def _add_heavy(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Families that import every driver."""
    from gateway.cli import commission, opcua

    for family in (commission, opcua):
        family.register(commands)


def _add_demo(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "the whole story on a simulated mine face: trip, alert, lost link, reset"
    demo = commands.add_parser("demo", help=text, description=text)
    demo.add_argument("--once", action="store_true", help="end after one story")
    demo.add_argument(
        "--stuck-breaker", action="store_true", help="simulate a breaker that does not open"
    )
    add_directories(demo)
    demo.set_defaults(run=_demo)


def _demo(args: argparse.Namespace) -> int:
    from gateway.cli.demo import run as run_demo

    return run_demo(args)


class _Version(argparse.Action):
    """``--version``: looked up only when asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show the version and end")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from gateway.view.readings import version

        print(f"sitewarden {version()}")
        parser.exit(Exit.DONE)


if __name__ == "__main__":
    sys.exit(main())
