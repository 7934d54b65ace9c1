from __future__ import annotations

from django.core.management.base import CommandParser

from tenantkeep_django.command import TenantkeepCommand


class Command(TenantkeepCommand):
    help = "Remove the backups that the retention policy does not keep, with tenantkeep."
    command = "cleanup"

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--retention-policy", metavar="POLICY", help="default, aggressive, conservative or custom")
        parser.add_argument("--daily-retention", metavar="N", help="for custom: of how many days")
        parser.add_argument("--weekly-retention", metavar="N", help="for custom: of how many weeks")
        parser.add_argument("--monthly-retention", metavar="N", help="for custom: of how many months")
        self.switch(parser, "--dry-run", "show what would be removed, and remove nothing")
        self.switch(parser, "--yes", "do not ask")
