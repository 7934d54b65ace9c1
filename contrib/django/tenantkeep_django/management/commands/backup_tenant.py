from __future__ import annotations

from django.core.management.base import CommandParser

from tenantkeep_django.command import TenantkeepCommand


class Command(TenantkeepCommand):
    help = "Back up core and all tenants at one moment, with tenantkeep."
    command = "backup"

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--schema", action="append", help="only this schema; repeat it for more")
        parser.add_argument("--tenant", help="name of the tenant, where it is not the schema's")
        parser.add_argument("--backup-type", metavar="TYPE", help="full, incremental or baseline")
        self.switch(parser, "--include-media", "with the files of the tenants")
        self.switch(parser, "--compress", "compress with gzip")
        parser.add_argument("--retention-days", metavar="N", help="keep this backup for exactly so many days")
