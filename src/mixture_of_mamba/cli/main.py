"""The program `mom`: runs a sub-command, whose module is imported only when it is called."""

from __future__ import annotations

import sys
from importlib import import_module

from .._version import __version__
from ..processes import unwinding
from .errors import report

__all__ = ["COMMANDS", "main"]

#: Sub-command -> what it does. Its module is cli/NAME.py.
COMMANDS = {
    "demo": "train dense Mamba and Mixture-of-Mamba on real tokens and show what the mixture saves",
    "train": "train one model, from a YAML config and dotted overrides",
    "compare": "train variants on the same batches; FLOPs to match, per modality, with a report",
    "ablate": "train all 16 sets of split projections; table and plot",
    "report": "rebuild a comparison's report from its logs",
    "generate": "text to image or speech, image or speech to text, from a trained run",
    "tokenizer": "train or inspect the tokenizers of a config's modalities",
    "upcycle": "turn a dense Mamba checkpoint into a mixture",
    "bench": "time the kernels and the model on this machine",
    "env": "what is active here (backends, threads, caches) and why",
}


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: without the program's name; None: that of this process.

    Returns:
        The exit code: 1 for a failed command, 2 for an unknown one, 130 for an interrupted one.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if args else 2
    if args[0] in ("-V", "--version"):
        print(f"mom {__version__}")
        return 0
    name = args[0]
    if name not in COMMANDS:
        return _unknown(name)
    try:
        with unwinding():
            return _run(name, args[1:])
    except SystemExit as stop:  # --help
        return stop.code if isinstance(stop.code, int) else 0
    except BrokenPipeError:
        sys.stdout = None  # type: ignore[assignment]  # stdout is closed (mom … | head)
        return 1
    except (Exception, KeyboardInterrupt) as error:
        return report(error, f"mom {name}")


def _run(name: str, args: list[str]) -> int:
    from . import allocator

    allocator.configure()

    from ..training.launch import check_alone
    from .parser import Parser

    module = import_module(f"mixture_of_mamba.cli.{name}")
    parser = Parser(prog=f"mom {name}", description=module.HELP)
    module.configure(parser)
    positional = [a for a in parser._actions if not a.option_strings]
    forms = {"?": "[{}]", "*": "[{} ...]"}
    named = [forms.get(str(a.nargs), "{}").format(a.dest.upper()) for a in positional]
    parser.usage = " ".join(["mom", name, *named, "[options]"])
    given = parser.parse_args(args)
    if name not in ("train", "env"):
        check_alone(f"mom {name}")
    return int(module.run(given) or 0)


def _overview() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: mom COMMAND [options]      mom COMMAND --help explains every field",
            "",
            "Mixture-of-Mamba: state-space models with one set of projections per modality.",
            "",
            *lines,
        ]
    )


def _unknown(name: str) -> int:
    from difflib import get_close_matches

    near = get_close_matches(name, COMMANDS, 1)
    hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(COMMANDS)}"
    print(f"mom: there is no command {name!r}; {hint}", file=sys.stderr)
    return 2
