from __future__ import annotations

from django.core.management.base import CommandParser

from tenantkeep_django.command import TenantkeepCommand


class Command(TenantkeepCommand):
    help = "Put tenants back from a backup, with tenantkeep. Without a source on a terminal it asks."
    command = "restore"

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        self.switch(parser, "--baseline", "from the baseline")
        parser.add_argument("--backup-file", metavar="PATH", help="from a plain SQL file")
        parser.add_argument("--manifest", metavar="PATH", help="from this backup: its id or its manifest")
        self.switch(parser, "--latest", "from the newest backup")
        parser.add_argument("--schema", action="append", help="only this schema or tenant; repeat it for more")
        self.switch(parser, "--include-media", "with the files of the tenants")
        self.switch(parser, "--create-rollback", "back up what is replaced first; the default")
        self.switch(parser, "--dry-run", "show what would be restored, and change nothing")
        self.switch(parser, "--list-available", "list what can be restored, and do nothing")
        self.switch(parser, "--yes", "do not ask")
