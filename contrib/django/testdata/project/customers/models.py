"""The tables of django-tenants' TenantMixin and DomainMixin."""

from django.db import models


class Client(models.Model):
    schema_name = models.CharField(max_length=63, unique=True, db_index=True)
    name = models.CharField(max_length=100)


class Domain(models.Model):
    domain = models.CharField(max_length=253, unique=True, db_index=True)
    tenant = models.ForeignKey(Client, on_delete=models.CASCADE, related_name="domains")
    is_primary = models.BooleanField(default=True, db_index=True)
