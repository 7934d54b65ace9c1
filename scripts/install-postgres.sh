#!/usr/bin/env bash
# Makes sure that PostgreSQL's server and client programs are on this machine.
# Installs Debian's or Ubuntu's package where that is possible without asking,
# and says what to do everywhere else. Doing it twice does nothing more.
set -euo pipefail

has_server() {
	if [ -n "${TENANTKEEP_PG_BIN:-}" ]; then
		[ -x "$TENANTKEEP_PG_BIN/initdb" ]
		return
	fi
	local initdb
	for initdb in /usr/lib/postgresql/*/bin/initdb /usr/pgsql-*/bin/initdb \
		/opt/homebrew/opt/postgresql@*/bin/initdb /usr/local/opt/postgresql@*/bin/initdb; do
		[ -x "$initdb" ] && return
	done
	# In $PATH it counts only together with its neighbours: a lone initdb has
	# none of the files that it needs.
	initdb=$(command -v initdb) || return
	[ -x "$(dirname "$(readlink -f "$initdb")")/postgres" ]
}

has_clients() {
	command -v pg_dump >/dev/null && command -v psql >/dev/null
}

if has_server && has_clients; then
	exit 0
fi

if ! command -v apt-get >/dev/null; then
	{
		echo "PostgreSQL's server programs (initdb, postgres) and pg_dump are needed. Install them with:"
		case "$(uname -s)" in
		Darwin) echo "  brew install postgresql@17" ;;
		*) echo "  sudo dnf install postgresql-server postgresql-contrib    (Fedora, or the like of it elsewhere)" ;;
		esac
	} >&2
	exit 1
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
	if ! sudo -n true 2>/dev/null; then
		echo "PostgreSQL's server programs are needed, and installing them needs root: sudo apt-get install postgresql" >&2
		exit 1
	fi
	as_root=(sudo -n)
fi
export DEBIAN_FRONTEND=noninteractive
if [ ${#as_root[@]} -gt 0 ]; then
	as_root+=(env DEBIAN_FRONTEND=noninteractive)
fi

echo "installing PostgreSQL's programs with apt-get" >&2
"${as_root[@]}" apt-get -qq update
# Only the programs are wanted: postgresql-common comes first, so that it can be
# told not to create and start a cluster of its own.
"${as_root[@]}" apt-get -qq -o Dpkg::Use-Pty=0 install --yes --no-install-recommends postgresql-common >&2
setting="create_main_cluster = false"
conf=/etc/postgresql-common/createcluster.conf
if ! grep -qxF "$setting" "$conf"; then
	echo "$setting" | "${as_root[@]}" tee -a "$conf" >/dev/null
fi
"${as_root[@]}" apt-get -qq -o Dpkg::Use-Pty=0 install --yes --no-install-recommends postgresql >&2

if ! has_server || ! has_clients; then
	echo "PostgreSQL was installed, but initdb, postgres or pg_dump cannot be found" >&2
	exit 1
fi
