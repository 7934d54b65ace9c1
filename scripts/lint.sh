#!/usr/bin/env bash
# Runs every linter, each of them even when one before it fails. The Go tools
# come in the versions that tools/go.mod names; building them the first time
# takes some minutes.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
export GOWORK=off

failed=()
tool() { go tool -modfile=tools/go.mod "$@"; }

echo "gofumpt" >&2
unformatted=$(tool gofumpt -l cmd internal bench contrib tools) || failed+=(gofumpt)
if [ -n "$unformatted" ]; then
	printf 'not formatted, run make fmt:\n%s\n' "$unformatted" >&2
	failed+=(gofumpt)
fi

echo "go mod tidy" >&2
go mod tidy -diff || failed+=("go mod tidy")

echo "golangci-lint" >&2
tool golangci-lint run ./... || failed+=(golangci-lint)

echo "govulncheck" >&2
# govulncheck ends with 3 when it found something. Its database is on the
# network: not reaching it says nothing about this code.
report=$(tool govulncheck ./... 2>&1)
case $? in
0) ;;
3)
	echo "$report" >&2
	failed+=(govulncheck)
	;;
*)
	if grep -qE 'vuln\.go\.dev|fetching vulnerabilities' <<<"$report"; then
		echo "govulncheck: its database cannot be reached, so vulnerabilities were not looked for" >&2
	else
		echo "$report" >&2
		failed+=(govulncheck)
	fi
	;;
esac

echo "kubecheck" >&2
manifests=()
for file in deploy/kubernetes/*.yaml; do
	# That is for kubectl alone, and no object of the API.
	[ "${file##*/}" = kustomization.yaml ] || manifests+=("$PWD/$file")
done
go run -C tools ./kubecheck "${manifests[@]}" || failed+=(kubecheck)

echo "shellcheck" >&2
if ! command -v shellcheck >/dev/null && [ -n "${CI:-}" ] && command -v apt-get >/dev/null; then
	{ apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes shellcheck; } >/dev/null 2>&1 ||
		echo "shellcheck cannot be installed here" >&2
fi
if command -v shellcheck >/dev/null; then
	shellcheck scripts/*.sh .ci/run || failed+=(shellcheck)
else
	echo "shellcheck is not installed: shell scripts were not looked at" >&2
fi

if [ ${#failed[@]} -gt 0 ]; then
	echo "lint failed: ${failed[*]}" >&2
	exit 1
fi
echo "lint passed" >&2
