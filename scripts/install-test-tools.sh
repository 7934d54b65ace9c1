#!/usr/bin/env bash
# Makes sure that the programs are on this machine with which the tests check
# what users would: pgbouncer, zstd and gzip, Django for its app, cron with
# libfaketime, fakeroot for whoever is not root, systemd's check of its units, and
# Prometheus' of its rules. Without root, the packages of Django and cron are
# unpacked into a cache of the user's; that of Prometheus always is, since to be
# installed would start it. Tests skip what needs one of the other programs where it
# is missing; those of Django and of cron fail.
set -euo pipefail

cache=${XDG_CACHE_HOME:-$HOME/.cache}/tenantkeep/test-tools
has_django() {
	PYTHONPATH=$cache/usr/lib/python3/dist-packages /usr/bin/python3 -c 'import django, psycopg2' 2>/dev/null
}

# The tests look in both places, too.
has() { compgen -G "$1" >/dev/null || compgen -G "$cache$1" >/dev/null; }
has_cron() {
	has /usr/sbin/cron && has '/usr/lib/*/faketime/libfaketime.so.1' && { [ "$(id -u)" -eq 0 ] || has '/usr/lib/*/libfakeroot/libfakeroot-sysv.so'; }
}

get_promtool() {
	mkdir -p "$cache/packages"
	cd "$cache/packages"
	rm -f prometheus_*.deb
	apt-get -qq download prometheus >&2 || {
		# The lists of packages may be old, or missing.
		if [ "$(id -u)" -eq 0 ]; then apt-get -qq update >&2; else sudo -n apt-get -qq update >&2; fi
		apt-get -qq download prometheus >&2
	}
	dpkg-deb -x prometheus_*.deb "$cache"
	rm -f prometheus_*.deb
}
if ! has /usr/bin/promtool && command -v apt-get >/dev/null; then
	echo "unpacking the package of Prometheus into $cache" >&2
	(get_promtool) || true
	has /usr/bin/promtool || echo "the alert rules will not be checked by promtool: sudo apt-get install prometheus" >&2
fi

missing=()
command -v systemd-analyze >/dev/null || missing+=(systemd)
command -v zstd >/dev/null || missing+=(zstd)
command -v gzip >/dev/null || missing+=(gzip)
command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ] || missing+=(pgbouncer)
has_django || missing+=(python3-django python3-psycopg2)
has_cron || missing+=(cron libfaketime fakeroot libfakeroot)
if [ ${#missing[@]} -eq 0 ] || ! command -v apt-get >/dev/null; then
	exit 0
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
	if ! sudo -n true 2>/dev/null; then
		has_django && has_cron && exit 0
		echo "unpacking the packages of Django and cron into $cache" >&2
		mkdir -p "$cache/packages"
		cd "$cache/packages"
		# What python3-django needs of Python differs from release to release:
		# those that there are.
		for package in python3-django python3-asgiref python3-sqlparse python3-tz python3-psycopg2 cron libfaketime fakeroot libfakeroot; do
			apt-get -qq download "$package" >&2 || echo "$package cannot be had" >&2
		done
		for file in *.deb; do
			[ ! -e "$file" ] || dpkg-deb -x "$file" "$cache"
		done
		rm -f ./*.deb
		has_django || echo "the test of the Django app will fail: sudo apt-get install python3-django python3-psycopg2" >&2
		has_cron || echo "the test of the scheduler under cron will fail: sudo apt-get install cron libfaketime fakeroot" >&2
		exit 0
	fi
	as_root=(sudo -n)
fi
install() {
	"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 install --yes --no-install-recommends "${missing[@]}" >&2
}
echo "installing ${missing[*]} with apt-get" >&2
# The lists of packages may be old, or missing.
install || { "${as_root[@]}" apt-get -qq update >&2 && install; } ||
	echo "some tests will be skipped, or fail" >&2
