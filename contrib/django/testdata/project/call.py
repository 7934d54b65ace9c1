"""Calls commands from Python, and prints what they gave."""

import io
import json
import os

import django
from django.core.management import CommandError, call_command

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
django.setup()

output = io.StringIO()
call_command("list_backups", format="json", limit=1, stdout=output)
print(json.loads(output.getvalue())[0]["type"])

errors = io.StringIO()
try:
    call_command("restore_tenant", "--no-owner", latest=True, schema=["nobody"], dry_run=True, stderr=errors)
except CommandError as e:
    print(e.returncode, "nobody" in errors.getvalue())
