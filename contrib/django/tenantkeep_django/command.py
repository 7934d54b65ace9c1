"""The base of the four commands."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import IO, Any, ClassVar

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser, OutputWrapper
from django.db import connections
from django.utils.connection import ConnectionDoesNotExist

from .environment import environment, find_binary

#: Options of Django's own that tenantkeep does not get, or gets translated.
_OWN = frozenset({"database", "force_color", "no_color", "pythonpath", "settings", "skip_checks", "traceback", "verbosity", "passed_on", "stdout", "stderr"})


class TenantkeepCommand(BaseCommand):
    """Runs a command of tenantkeep.

    Called by manage.py, the process becomes tenantkeep: terminal, signals and exit
    code are its own. Called by call_command, it is run as a process beside, and an
    exit code other than 0 is a CommandError with that returncode.
    """

    requires_system_checks: ClassVar[Any] = []
    command: ClassVar[str]

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        kwargs.setdefault("epilog", f"All other options of \"tenantkeep {self.command}\" are passed on to it; \"tenantkeep {self.command} --help\" lists them.")
        parser = super().create_parser(prog_name, subcommand, allow_abbrev=False, **kwargs)

        def parse_args(args: Any = None, namespace: Any = None) -> Any:
            known, others = parser.parse_known_args(args, namespace)
            known.passed_on = others
            return known

        parser.parse_args = parse_args  # type: ignore[method-assign,assignment]
        return parser

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--database", metavar="ALIAS", help="alias of the database in DATABASES; default: TENANTKEEP[\"DATABASE\"], else \"default\"")

    def switch(self, parser: CommandParser, name: str, text: str) -> None:
        """Adds an option that may stand alone, or with =true or =false."""
        parser.add_argument(name, nargs="?", const="true", metavar="BOOL", help=text)

    def arguments(self, options: dict[str, Any]) -> list[str]:
        """The command line of tenantkeep."""
        args = [self.command]
        if options["verbosity"] != 1:
            args.append(f"--verbosity={options['verbosity']}")
        if options["no_color"]:
            args.append("--no-color")
        for name, value in options.items():
            if name in _OWN or value is None:
                continue
            for one in value if isinstance(value, (list, tuple)) else [value]:
                text = str(one).lower() if isinstance(one, bool) else os.fspath(one) if isinstance(one, os.PathLike) else str(one)
                args.append(f"--{name.replace('_', '-')}={text}")
        return args + list(options.get("passed_on") or [])

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            binary, env = find_binary(), environment(options["database"])
        except (ConnectionDoesNotExist, ImproperlyConfigured) as e:
            raise CommandError(str(e)) from e
        line = [binary, *self.arguments(options)]
        if self._called_from_command_line:
            connections.close_all()
            sys.stdout.flush()
            sys.stderr.flush()
            os.execve(binary, line, env)
        code = self.run(line, env)
        if code != 0:
            raise CommandError(f"tenantkeep {self.command} ended with exit code {code}", returncode=code)

    def run(self, line: list[str], env: dict[str, str]) -> int:
        """Runs the program and returns its exit code, with its output as it comes."""
        streams = [self.stdout, self.stderr]
        kinds = [None if _is_own(s, own) else subprocess.PIPE for s, own in zip(streams, (sys.__stdout__, sys.__stderr__))]
        with subprocess.Popen(line, env=env, stdout=kinds[0], stderr=kinds[1]) as process:
            pipes = [(pipe, s) for pipe, s in ((process.stdout, streams[0]), (process.stderr, streams[1])) if pipe]
            threads = [threading.Thread(target=_copy, args=p, daemon=True) for p in pipes]
            for t in threads:
                t.start()
            try:
                code = process.wait()
            except KeyboardInterrupt:  # which the terminal gave to the program, too
                process.wait()
                raise
            for t in threads:
                t.join()
        return code if code >= 0 else 128 - code


def _is_own(stream: OutputWrapper, own: IO[str] | None) -> bool:
    """Whether a stream is this process's own, which the program can have itself."""
    if own is None or getattr(stream, "_out", None) is not own:
        return False
    own.flush()
    return True


def _copy(pipe: IO[bytes], stream: OutputWrapper) -> None:
    for piece in pipe:
        stream.write(piece.decode("utf-8", "replace"), ending="")
