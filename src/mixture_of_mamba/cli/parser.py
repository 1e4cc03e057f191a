"""argparse for `mom`: raises instead of exiting, and names the nearest option."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from ..structure import nearest

__all__ = ["Parser"]

#: Types of options, and what messages call them.
_WORDS: dict[Any, str] = {int: "whole number", float: "number"}


class Parser(argparse.ArgumentParser):
    """Errors are ArgumentErrors in words of the command line.

    Attributes:
        sections: parts of a run's config whose fields are flags, such as --train.steps; set by
            `options.add_run_options`. Their values are in `fields` of what was parsed.
        fields: adds these fields as options, which the help and its hints need; called once, there.
    """

    def __init__(self, **kwargs: Any) -> None:
        self.sections: tuple[str, ...] = ()
        self.base: dict[str, Any] | None = None
        self.fields: Callable[[], None] | None = None
        kwargs = {"exit_on_error": False, "allow_abbrev": False, **kwargs}
        super().__init__(formatter_class=_Formatter, **kwargs)

    def parse_args(self, args: Any = None, namespace: Any = None) -> argparse.Namespace:  # type: ignore[override]
        """Parse; `fields` holds (dotted name, text) of each field of a run, in order.

        Raises:
            ArgumentError: an unknown option, a wrong value, or a missing one.
        """
        given, rest = self._split(list(sys.argv[1:] if args is None else args))
        parsed, unknown = self.parse_known_args(rest, namespace)
        for value in unknown:
            name = value.partition("=")[0]
            if name.startswith("--"):
                raise argparse.ArgumentError(None, self._no_option(name))
            raise argparse.ArgumentError(None, f"there is no place for {value}; see --help")
        parsed.fields = given
        parsed.sections, parsed.base = self.sections, self.base
        return parsed

    def _split(self, args: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
        """Fields of a run with their values, and everything else."""
        given, rest = [], []
        rest_of = iter(args)
        for arg in rest_of:
            name, equals, value = arg.partition("=")
            if not name.startswith("--") or name[2:].partition(".")[0] not in self.sections:
                rest.append(arg)
                continue
            if not equals:
                value = next(rest_of, "--")
                if value.startswith("--"):
                    raise argparse.ArgumentError(None, f"{name} needs a value")
            given.append((name[2:], value))
        return given, rest

    def format_help(self) -> str:
        """The help, with the fields of a run."""
        self._add_fields()
        return super().format_help()

    def _add_fields(self) -> None:
        fields, self.fields = self.fields, None
        if fields is not None:
            fields()

    def _no_option(self, name: str) -> str:
        self._add_fields()
        flags = [s[2:] for a in self._actions for s in a.option_strings if s.startswith("--")]
        flags.sort(key=lambda flag: "NAME" in flag)  # a field before an option of some modality
        hint = nearest(name[2:], flags).replace("mean ", "mean --")
        return f"there is no option {name}{hint}"

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError as error:
            kind = _WORDS.get(action.type, "valid value")
            raise argparse.ArgumentError(
                None, f"{_shown(action)} is {arg_string!r}, which is no {kind}"
            ) from error

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = ", ".join(map(str, action.choices))
            raise argparse.ArgumentError(
                None, f"{_shown(action)} is {value!r}; choose from {choices}"
            )

    def _match_argument(self, action: argparse.Action, arg_strings_pattern: str) -> int:
        try:
            return super()._match_argument(action, arg_strings_pattern)
        except argparse.ArgumentError as error:
            raise argparse.ArgumentError(None, f"{_shown(action)} needs a value") from error

    def error(self, message: str) -> Any:  # type: ignore[override]
        """What argparse says only in words: that arguments are missing."""
        *words, names = message.rpartition("required: ")
        if not words[0]:
            raise argparse.ArgumentError(None, message)
        shown = {_given_name(a): _shown(a).upper() for a in self._actions if not a.option_strings}
        missing = ", ".join(shown.get(n, n.rpartition("/")[2]) for n in names.split(", "))
        raise argparse.ArgumentError(None, f"missing {missing}; see --help")


class _Formatter(argparse.HelpFormatter):
    """Help with the default of every option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, argparse.SUPPRESS, False, []) or "%(default)" in (
            action.help or ""
        ):
            return action.help
        if isinstance(action.default, list):
            return f"{action.help} (default: {' '.join(map(str, action.default))})"
        return f"{action.help} (default: %(default)s)"


def _shown(action: argparse.Action) -> str:
    """An option as the user writes it."""
    return action.option_strings[-1] if action.option_strings else action.dest


def _given_name(action: argparse.Action) -> str:
    return str(action.metavar or action.dest)
