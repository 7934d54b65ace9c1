# syntax=docker/dockerfile:1

# Versions, each of which --build-arg can change. POSTGRES_MAJOR is the newest
# that ALPINE_VERSION has: its pg_dump reads every server from 12 on, an older one
# refuses newer servers.
ARG GO_VERSION=1.26
ARG ALPINE_VERSION=3.23
ARG POSTGRES_MAJOR=18

FROM golang:${GO_VERSION}-alpine${ALPINE_VERSION} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY cmd ./cmd
COPY internal ./internal
ARG VERSION=dev
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOWORK=off go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /tenantkeep ./cmd/tenantkeep

FROM alpine:${ALPINE_VERSION}
ARG POSTGRES_MAJOR
# A server refuses clients that are older than itself, down to the minor version:
# what is newest when the image is built is what it gets.
# hadolint ignore=DL3018
RUN apk add --no-cache ca-certificates "postgresql${POSTGRES_MAJOR}-client" \
    && addgroup -g 10001 -S tenantkeep \
    && adduser -u 10001 -S -D -h /app -G tenantkeep tenantkeep \
    && mkdir -p /app/backups /app/baselineData /app/logs \
    && chown -R tenantkeep:tenantkeep /app \
    && chmod 0700 /app/backups /app/baselineData /app/logs
COPY --from=build /tenantkeep /usr/local/bin/tenantkeep
COPY LICENSE /usr/share/licenses/tenantkeep/LICENSE

# The same paths as in the original system: manifests have them.
WORKDIR /app
ENV BACKUP_REPOSITORY=/app/backups \
    BASELINE_DIR=/app/baselineData \
    BACKUP_LOG_DIR=/app/logs \
    BACKUP_LISTEN=127.0.0.1:9754
VOLUME ["/app/backups", "/app/baselineData", "/app/logs"]
USER 10001:10001

# Of the process, at whatever port it listens, and not of the backups: those are
# what tenantkeep health judges, and to start again makes none of them better.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
    CMD ["sh", "-c", "wget -q -O /dev/null http://127.0.0.1:${BACKUP_LISTEN##*:}/healthz"]
ENTRYPOINT ["tenantkeep"]
CMD ["serve"]

ARG VERSION=dev
ARG REVISION=
ARG CREATED=
LABEL org.opencontainers.image.title="tenantkeep" \
      org.opencontainers.image.description="Backup and restore for PostgreSQL databases with one schema per customer" \
      org.opencontainers.image.source="https://github.com/tenantkeep/tenantkeep" \
      org.opencontainers.image.documentation="https://github.com/tenantkeep/tenantkeep/blob/main/docs/containers.md" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
