"""See tenantkeep_django.command."""
