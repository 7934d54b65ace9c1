"""Commands of manage.py that run tenantkeep with the settings of the project."""
