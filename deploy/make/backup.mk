# Backups of an application with tenantkeep, as make targets. In its Makefile:
#
#   include path/to/tenantkeep/deploy/make/backup.mk
#
# Settings come from the environment and from tenantkeep.yaml, as always. Variables
# of the targets: SCHEMA=NAME one schema, DRY_RUN=1 show and do nothing, YES=1 ask
# nothing, FLAGS="..." more flags of the command, and TENANTKEEP the program.

TENANTKEEP ?= tenantkeep

tenantkeep-targets := backup backup-full backup-incremental backup-schema backup-schedule dev-baseline \
	restore restore-baseline list-backups clean-backups backup-health
.PHONY: $(tenantkeep-targets)

# The name of a schema may hold anything: it reaches the shell as a variable only,
# and as one that make does not expand, as it does what it exports by itself.
unexport SCHEMA
$(tenantkeep-targets): export TENANTKEEP_MAKE_SCHEMA = $(value SCHEMA)

tenantkeep-on = $(filter-out 0 no false off,$($(1)))
tenantkeep-dry = $(if $(call tenantkeep-on,DRY_RUN),--dry-run)
tenantkeep-yes = $(if $(call tenantkeep-on,YES),--yes)
tenantkeep-schema = $(if $(value SCHEMA),--schema "$$TENANTKEEP_MAKE_SCHEMA")
tenantkeep-media = $(if $(BACKUP_MEDIA_ROOT),--include-media)

backup: ## back up core and all tenants, or SCHEMA
	$(TENANTKEEP) backup $(tenantkeep-schema) $(tenantkeep-dry) $(FLAGS)

backup-full: ## a full backup, with media files where BACKUP_MEDIA_ROOT is set
	$(TENANTKEEP) backup --backup-type full $(tenantkeep-media) $(tenantkeep-schema) $(tenantkeep-dry) $(FLAGS)

backup-incremental: ## a backup of what changed
	$(TENANTKEEP) backup --backup-type incremental $(tenantkeep-schema) $(tenantkeep-dry) $(FLAGS)

backup-schema: ## back up one schema: SCHEMA=NAME
	@test -n "$$TENANTKEEP_MAKE_SCHEMA" || { echo 'say which schema: make backup-schema SCHEMA=customer_a' >&2; exit 2; }
	$(TENANTKEEP) backup $(tenantkeep-schema) $(tenantkeep-dry) $(FLAGS)

backup-schedule: ## make the backups that are due, then remove old ones
	$(TENANTKEEP) schedule $(tenantkeep-dry) $(FLAGS)

dev-baseline: ## write core as a baseline: FLAGS="--exclude-table-data sessions"
	$(TENANTKEEP) backup --backup-type baseline $(tenantkeep-dry) $(FLAGS)

restore: ## choose a backup and restore it; SCHEMA, DRY_RUN=1
	$(TENANTKEEP) restore $(tenantkeep-schema) $(tenantkeep-dry) $(tenantkeep-yes) $(FLAGS)

restore-baseline: ## take core back to its baseline, or SCHEMA to FLAGS="--template NAME"
	$(TENANTKEEP) restore --baseline $(tenantkeep-schema) $(tenantkeep-dry) $(tenantkeep-yes) $(FLAGS)

list-backups: ## list backups and baselines
	$(TENANTKEEP) list --include-baselines $(tenantkeep-schema) $(FLAGS)

clean-backups: ## remove old backups, and what restores left
	$(TENANTKEEP) cleanup $(tenantkeep-dry) $(tenantkeep-yes) $(FLAGS)

backup-health: ## check that backups are fresh and whole
	$(TENANTKEEP) health $(FLAGS)
