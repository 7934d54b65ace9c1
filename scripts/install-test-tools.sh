#!/usr/bin/env bash
# Makes sure that the programs are on this machine with which the tests check
# what users would: pgbouncer, zstd and gzip. Tests skip what needs one that is
# missing, so that failing to install is no error.
set -euo pipefail

missing=()
command -v zstd >/dev/null || missing+=(zstd)
command -v gzip >/dev/null || missing+=(gzip)
command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ] || missing+=(pgbouncer)
if [ ${#missing[@]} -eq 0 ] || ! command -v apt-get >/dev/null; then
	exit 0
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
	sudo -n true 2>/dev/null || exit 0
	as_root=(sudo -n)
fi
echo "installing ${missing[*]} with apt-get" >&2
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 install --yes --no-install-recommends "${missing[@]}" >&2 ||
	echo "some tests will be skipped" >&2
