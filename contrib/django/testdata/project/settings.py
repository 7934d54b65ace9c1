"""Settings, with what a test wants in the variable TEST_SETTINGS, as JSON."""

import json
import os

SECRET_KEY = "for tests"
INSTALLED_APPS = ["tenantkeep_django", "customers"]
MIGRATION_MODULES = {"customers": None}  # migrate --run-syncdb makes the tables
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
globals().update(json.loads(os.environ["TEST_SETTINGS"]))
