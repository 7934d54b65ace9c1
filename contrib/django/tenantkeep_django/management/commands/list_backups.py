from __future__ import annotations

from django.core.management.base import CommandParser

from tenantkeep_django.command import TenantkeepCommand


class Command(TenantkeepCommand):
    help = "List the backups of the repository, with tenantkeep."
    command = "list"

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--format", help="table, json or csv")
        parser.add_argument("--schema", help="only backups of this schema")
        parser.add_argument("--type", help="only full, incremental or baseline ones")
        parser.add_argument("--limit", metavar="N", help="so many at most")
        self.switch(parser, "--include-baselines", "baselines too")
