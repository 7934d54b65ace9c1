"""What tenantkeep is told of the project's settings, as environment variables."""

from __future__ import annotations

import csv
import io
import os
import shutil
from typing import Any, Mapping
from urllib.parse import quote, urlencode

from django.apps import apps
from django.conf import settings
from django.core.exceptions import FieldDoesNotExist, ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, connections

#: Entries of OPTIONS that are parameters of libpq and mean something to
#: tenantkeep. All others are about Django's own sessions.
CONNECTION_OPTIONS = frozenset({
    "channel_binding", "connect_timeout", "gssencmode", "hostaddr", "krbsrvname", "load_balance_hosts", "options", "passfile",
    "require_auth", "requirepeer", "service", "servicefile", "ssl_max_protocol_version", "ssl_min_protocol_version", "sslcert",
    "sslcertmode", "sslcrl", "sslcrldir", "sslkey", "sslmode", "sslnegotiation", "sslrootcert", "sslsni", "target_session_attrs",
})  # fmt: skip


def option(name: str, default: Any = None) -> Any:
    """An entry of the setting TENANTKEEP."""
    entries = getattr(settings, "TENANTKEEP", {})
    unknown = set(entries) - {"BINARY", "DATABASE", "ENVIRONMENT"}
    if unknown:
        raise ImproperlyConfigured(f"TENANTKEEP has unknown entries: {', '.join(sorted(unknown))}; known are BINARY, DATABASE and ENVIRONMENT")
    return entries.get(name, default)


def find_binary() -> str:
    """The program: TENANTKEEP["BINARY"], else TENANTKEEP_BINARY, else tenantkeep on PATH."""
    configured = option("BINARY") or os.environ.get("TENANTKEEP_BINARY")
    name = os.fspath(configured or "tenantkeep")
    found = shutil.which(name)
    if found:
        return found
    if configured:
        raise ImproperlyConfigured(f"{name} is no program that can be run: TENANTKEEP[\"BINARY\"] or TENANTKEEP_BINARY should name tenantkeep")
    raise ImproperlyConfigured("the program tenantkeep is not on PATH: install it, or name it in settings.TENANTKEEP[\"BINARY\"] or the variable TENANTKEEP_BINARY")


def environment(alias: str | None = None) -> dict[str, str]:
    """The environment of this process with what the settings say.

    The database is always that of the settings. Of all else, a variable that is
    set already wins.
    """
    env = {**{k: str(v) for k, v in option("ENVIRONMENT", {}).items()}, **os.environ}
    database(connections[alias or option("DATABASE", DEFAULT_DB_ALIAS)], env)
    for name, value in (*media(), *registry()):
        env.setdefault(name, value)
    return env


def database(connection: Any, env: dict[str, str]) -> None:
    """Leads to the database of a connection, with the password in a variable of its own."""
    if connection.vendor != "postgresql":
        raise ImproperlyConfigured(f"database {connection.alias!r} is {connection.vendor}: tenantkeep backs up PostgreSQL")
    config: Mapping[str, Any] = connection.settings_dict
    options: Mapping[str, Any] = config.get("OPTIONS") or {}
    query = {k: str(v) for k, v in options.items() if k in CONNECTION_OPTIONS and v is not None}
    if options.get("assume_role"):
        role = str(options["assume_role"]).replace("\\", "\\\\").replace(" ", "\\ ")
        query["options"] = f"{query.get('options', '')} -c role={role}".strip()
    for key, name in (("USER", "user"), ("HOST", "host"), ("PORT", "port")):
        value = config.get(key) or options.get(name)
        if value:
            query[name] = str(value)
    name = config.get("NAME") or options.get("dbname") or ("" if "service" in query else "postgres")
    password = config.get("PASSWORD") or options.get("password")
    if password:
        env["PGPASSWORD"] = str(password)
        env.pop("PGPASSWORD_FILE", None)
    env.pop("DATABASE_URL_FILE", None)
    env["DATABASE_URL"] = f"postgres:///{quote(str(name), safe='')}?{urlencode(query, quote_via=quote)}"


def media() -> list[tuple[str, str]]:
    """Where the tenants' files are, as django-tenants lays them out."""
    variables = []
    if settings.MEDIA_ROOT:
        variables.append(("BACKUP_MEDIA_ROOT", os.fspath(settings.MEDIA_ROOT)))
    relative = getattr(settings, "MULTITENANT_RELATIVE_MEDIA_ROOT", "")
    if relative:
        relative = os.fspath(relative)
        try:
            pattern = relative % "{schema}"
        except (TypeError, ValueError):  # no place for the name: it goes to the end
            pattern = os.path.join(relative, "{schema}")
        variables.append(("BACKUP_MEDIA_PATTERN", os.path.normpath(pattern)))
    return variables


def registry() -> list[tuple[str, str]]:
    """The tables that register tenants, where the settings name their models."""
    if not getattr(settings, "TENANT_MODEL", None):
        return []
    tenant = apps.get_model(settings.TENANT_MODEL)
    try:
        tables = [column(tenant._meta.get_field("schema_name"))]
        if getattr(settings, "TENANT_DOMAIN_MODEL", None):
            refers = apps.get_model(settings.TENANT_DOMAIN_MODEL)._meta.get_field("tenant")
            target = refers.target_field
            if target.model._meta.db_table == tenant._meta.get_field("schema_name").model._meta.db_table:
                tables.append(f"{column(refers)}={column(target)}")
    except FieldDoesNotExist:
        return []
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(tables)
    return [("BACKUP_REGISTRY_TABLES", line.getvalue())]


def column(field: Any) -> str:
    """A column as tenantkeep's --registry-table takes it."""
    schema = getattr(settings, "PUBLIC_SCHEMA_NAME", "public")
    names = (schema, field.model._meta.db_table, field.column)
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)
