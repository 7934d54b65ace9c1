.DEFAULT_GOAL := help

TOOL := go tool -modfile=tools/go.mod
# With GOWORK=off and no -mod flag of the caller's, every machine builds the same.
export GOWORK := off

# Each test package with a database starts a server of its own, and the packages
# run as many at once as there are processors.
TEST_FLAGS ?= -timeout 9m
BENCH_FLAGS ?=

.PHONY: help
help: ## show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## build ./tenantkeep
	CGO_ENABLED=0 go build -trimpath -o tenantkeep ./cmd/tenantkeep

.PHONY: postgres
postgres: ## install PostgreSQL's programs where they are missing
	@scripts/install-postgres.sh

.PHONY: test-tools
test-tools: # programs that some tests check with
	@scripts/install-test-tools.sh

.PHONY: test
test: postgres test-tools ## run all tests, on a private PostgreSQL
	go test $(TEST_FLAGS) ./...

.PHONY: race
race: postgres test-tools ## run all tests with the race detector
	CGO_ENABLED=1 go test -race -timeout 30m ./...

.PHONY: fmt
fmt: ## format all Go files
	$(TOOL) gofumpt -w cmd internal bench contrib tools

.PHONY: lint
lint: ## check format, imports, manifests, shell scripts and known vulnerabilities
	@scripts/lint.sh

.PHONY: demo
demo: postgres build ## watch tenants being backed up, lost and brought back
	./tenantkeep demo

.PHONY: bench
bench: postgres build ## compare with pg_dump: BENCH_FLAGS="-set s1,s2 -scale 0.1"
	go run ./bench -tenantkeep ./tenantkeep $(BENCH_FLAGS)

.PHONY: clean
clean: ## remove what was built
	rm -f tenantkeep
	rm -rf dist

# The targets for backups, on the program of this folder.
TENANTKEEP := ./tenantkeep
include deploy/make/backup.mk
$(tenantkeep-targets): build
