#!/usr/bin/env bash
# Runs tenantkeep from cron: finds it, gives it its environment, keeps two runs
# apart, writes a log, and passes on the exit code. docs/scheduling.md explains it.
set -uo pipefail
umask 077

usage() {
	cat <<'EOF'
usage: backup_scheduler.sh COMMAND [flags of tenantkeep]

  schedule                              make the backups that are due, then remove old ones
  backup [full|incremental|baseline]    make one backup
  cleanup                               remove old backups, and what restores left
  health                                check the backups

It works in the folder above the folder "scripts" that it is called in, or in
BACKUP_PROJECT_DIR. Variables come from BACKUP_ENV_FILE, else from .env there, else
from /etc/tenantkeep/env; those that are set already win. The program is TENANTKEEP,
else tenantkeep there or in PATH. The log is backup_scheduler.log in BACKUP_LOG_DIR
(logs/backup).
EOF
}

# project prints the folder to work in: that above the first folder "scripts" among
# where the script is called, and where the symbolic links from there lead.
project() {
	local path=$1 dir
	case $path in */*) ;; *) [ -e "$path" ] && path=./$path || path=$(command -v -- "$path") ;; esac
	while :; do
		dir=$(cd -P -- "$(dirname -- "$path")" && pwd) || return
		if [ "${dir##*/}" = scripts ]; then
			dirname -- "$dir"
			return
		fi
		[ -L "$path" ] || break
		path=$(readlink -- "$path") || return
		case $path in /*) ;; *) path=$dir/$path ;; esac
	done
	pwd
}

# known tells whether a variable is one that tenantkeep and what it stands on read.
# Others are none of its business, and some of them could run programs.
known() {
	case $1 in
	*[!A-Za-z0-9_]* | [0-9]* | '') return 1 ;;
	BACKUP_* | BASELINE_* | RESTORE_* | TENANTKEEP* | DATABASE_URL | DATABASE_URL_FILE | LOAD_BASELINE | MIGRATE_COMMAND) ;;
	PG* | TZ | NO_COLOR | SSL_CERT_FILE | SSL_CERT_DIR | AWS_* | AZURE_* | GOOGLE_*) ;;
	HTTP_PROXY | HTTPS_PROXY | NO_PROXY | http_proxy | https_proxy | no_proxy) ;;
	*) return 1 ;;
	esac
}

# load_env sets the variables of a file with lines of NAME=VALUE, quoted or not, with
# or without "export". Nothing in it is executed or expanded.
load_env() {
	local file=$1 line name value rest mode
	mode=$(stat -L -c %a -- "$file" 2>/dev/null || stat -L -f %Lp -- "$file" 2>/dev/null)
	case $mode in
	*[2367]) fail "everybody can write to $file: chmod o-w $file" ;;
	esac
	while IFS= read -r line || [ -n "$line" ]; do
		line=${line%$'\r'}
		line=${line#"${line%%[![:space:]]*}"}
		case $line in '' | '#'*) continue ;; esac
		line=${line#export }
		name=${line%%=*}
		name=${name%"${name##*[![:space:]]}"}
		[ "$name" != "$line" ] && known "$name" || continue
		[ -z "${!name+set}" ] || continue
		value=${line#*=}
		value=${value#"${value%%[![:space:]]*}"}
		case $value in
		\'*)
			value=${value#\'}
			value=${value%%\'*}
			;;
		\"*)
			rest=${value#\"} value=
			while [ -n "$rest" ] && [ "${rest:0:1}" != '"' ]; do
				[ "${rest:0:1}" = \\ ] && rest=${rest:1}
				value+=${rest:0:1} rest=${rest:1}
			done
			;;
		*)
			value=${value%%[[:space:]]#*}
			value=${value%"${value##*[![:space:]]}"}
			;;
		esac
		export "$name=$value"
	done <"$file" || fail "$file cannot be read"
}

rank() {
	case ${1^^} in
	DEBUG) echo 0 ;;
	WARN | WARNING) echo 2 ;;
	ERROR) echo 3 ;;
	*) echo 1 ;;
	esac
}

stamp() { TZ=UTC printf '%(%Y-%m-%dT%H:%M:%SZ)T' -1; }

# log writes a line of a level to the log, and warnings to stderr as well, which
# cron sends by mail.
log() {
	local level=$1
	shift
	[ "$(rank "$level")" -ge 2 ] && printf 'backup_scheduler.sh: %s\n' "$*" >&2
	[ -n "$logfile" ] && [ "$(rank "$level")" -ge "$least" ] || return 0
	printf '%s %-5s %s\n' "$(stamp)" "$level" "$*" >>"$logfile"
}

# words are a command line without the values of its flags, of which one may hold a
# password.
words() {
	local word text=$1
	shift
	for word in "$@"; do
		case $word in -*) text+=" ${word%%=*}" ;; esac
	done
	printf '%s' "$text"
}

fail() {
	log ERROR "$*"
	exit 1
}

# copy writes lines to the log with their time, and on a terminal to stderr too.
copy() {
	local line
	while IFS= read -r line || [ -n "$line" ]; do
		printf '%s %-5s %s\n' "$(stamp)" - "$line" >>"$logfile" || printf '%s\n' "$line" >&2
		[ -t 2 ] && printf '%s\n' "$line" >&2
	done
	return 0
}

# rotate puts a log aside that has become big. "tenantkeep cleanup" removes old ones.
rotate() {
	local size most=${BACKUP_LOG_MAX_BYTES:-10485760} aside
	size=$(wc -c <"$logfile" 2>/dev/null) || return 0
	case $most in '' | *[!0-9]*) most=10485760 ;; esac
	[ "$size" -gt "$most" ] || return 0
	aside=$logfile-$(stamp)
	[ ! -e "$aside" ] && [ ! -e "$aside.gz" ] && mv -- "$logfile" "$aside" || return 0
	gzip -q -- "$aside" 2>/dev/null || true
}

# open_log sets logdir, and logfile where it can be written.
open_log() {
	logdir=${BACKUP_LOG_DIR:-logs/backup}
	mkdir -p -- "$logdir" 2>/dev/null
	logdir=$(cd -- "$logdir" 2>/dev/null && pwd) || logdir=${BACKUP_LOG_DIR:-logs/backup}
	logfile=$logdir/backup_scheduler.log
	{ : >>"$logfile"; } 2>/dev/null || logfile='' # the umask keeps it from others
}

find_program() {
	local candidate
	if [ -n "${TENANTKEEP:-}" ]; then
		command -v -- "$TENANTKEEP" || fail "TENANTKEEP is $TENANTKEEP, which is no program"
		return
	fi
	for candidate in ./tenantkeep ./bin/tenantkeep "$(command -v tenantkeep)" /usr/local/bin/tenantkeep /usr/bin/tenantkeep "${HOME:-}/go/bin/tenantkeep"; do
		if [ -f "$candidate" ] && [ -x "$candidate" ]; then
			printf '%s\n' "$candidate"
			return
		fi
	done
	fail "tenantkeep is not found, neither in $PWD nor in PATH ($PATH): set TENANTKEEP to its path"
}

# lock keeps a second run from beginning, and tells who is at work.
lock() {
	command -v flock >/dev/null || return 0 # the lock of the database keeps them apart, later
	exec 9>>"$logdir/.backup_scheduler.lock" || fail "the lock in $logdir cannot be opened"
	if ! flock -n 9; then
		fail "$1 does not begin: another run is at work: $(cat "$logdir/.backup_scheduler.lock")"
	fi
	printf '%s since %s, process %d\n' "$1" "$(stamp)" $$ >"$logdir/.backup_scheduler.lock"
}

# run runs tenantkeep with its output in the log, until it ends, whatever signals come.
run() {
	local from child copier code=1 ended signalled
	from=$(wc -c <"$logfile" 2>/dev/null || echo 0)
	exec 8> >(trap '' INT TERM HUP; copy)
	copier=$!
	"$@" >&8 2>&8 8>&- 9>&- </dev/null &
	child=$!
	exec 8>&-
	trap 'signalled=1; kill -TERM "$child" 2>/dev/null' INT TERM HUP
	# A signal ends the waiting, not the program: its own end is waited for again. 127
	# is that it has been told already.
	while :; do
		signalled=''
		wait "$child" 2>/dev/null
		ended=$?
		[ "$ended" -eq 127 ] || code=$ended
		[ -n "$signalled" ] || break
	done
	wait "$copier"
	trap - INT TERM HUP
	# Cron sends what a run says by mail: nothing where all went well.
	if [ "$code" -ne 0 ] && ! [ -t 2 ]; then
		tail -c "+$((from + 1))" "$logfile" | tail -n 200 >&2
	fi
	return "$code"
}

main() {
	local command=${1:-} args=() program code began
	logfile='' logdir='' least=1
	case $command in
	schedule | backup | cleanup | health) shift ;;
	-h | --help | help)
		usage
		exit 0
		;;
	*)
		usage >&2
		exit 2
		;;
	esac
	args=("$command")
	if [ "$command" = backup ]; then
		case ${1:-} in
		full | incremental | baseline)
			args+=(--backup-type "$1")
			shift
			;;
		'' | -*) ;;
		*)
			printf 'backup_scheduler.sh: %s is no type of backup: full, incremental or baseline\n' "$1" >&2
			exit 2
			;;
		esac
	fi

	local dir
	dir=${BACKUP_PROJECT_DIR:-$(project "$0")}
	cd -- "$dir" || fail "there is no folder $dir to work in"
	local file
	if [ -n "${BACKUP_ENV_FILE:-}" ]; then
		load_env "$BACKUP_ENV_FILE"
	else
		for file in .env /etc/tenantkeep/env; do
			if [ -f "$file" ]; then
				load_env "$file"
				break
			fi
		done
	fi
	if [ "$command" = backup ] && [ ${#args[@]} -eq 1 ]; then
		case ${BACKUP_SCHEDULE_TYPE:-} in full | incremental | baseline) args+=(--backup-type "$BACKUP_SCHEDULE_TYPE") ;; esac
	fi

	least=$(rank "${BACKUP_LOG_LEVEL:-INFO}")
	case $least in
	0) args+=(--verbosity 3) ;;
	2 | 3) args+=(--quiet) ;;
	esac
	open_log
	program=$(find_program) || exit 1
	began=$SECONDS
	if [ "$command" = health ]; then
		# Its answer is for whoever asks, also while a backup runs.
		"$program" "${args[@]}" "$@"
		code=$?
	else
		[ -n "$logfile" ] || fail "the log ${logdir}/backup_scheduler.log cannot be written"
		[ "$command" = cleanup ] && args+=(--yes)
		lock "$command"
		rotate
		log INFO "$command begins: $program $(words "${args[0]}" "${args[@]:1}" "$@")"
		run "$program" "${args[@]}" "$@"
		code=$?
	fi
	case $code in
	0) log INFO "$command is done after $((SECONDS - began)) s" ;;
	*) log ERROR "$command ended with exit code $code after $((SECONDS - began)) s${logfile:+; the log is $logfile}" ;;
	esac
	exit "$code"
}

main "$@"
