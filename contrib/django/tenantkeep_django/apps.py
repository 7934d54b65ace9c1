from django.apps import AppConfig


class TenantkeepConfig(AppConfig):
    """The app; it has no models."""

    name = "tenantkeep_django"
    verbose_name = "tenantkeep"
