#!/bin/sh
# Starts the broker with the password of a secret's file, or checks that it lets us in.
# Usage: start.sh serve [redis-server's options] | start.sh check [redis-cli's options]
set -eu

file=${REDIS_PASSWORD_FILE:-/run/secrets/broker_password}
if ! [ -s "$file" ] || ! [ -r "$file" ]; then
  echo "start.sh: the password's file $file is missing, empty or not readable: write it, mode 644" >&2
  exit 2
fi
password=$(tr -d '\r' < "$file")
what=$1
shift

case $what in
serve)
  # By its digest, through standard input: the password itself stands in no file, no command
  # line and no environment. What the fleet does not need, such as FLUSHALL, is not allowed.
  digest=$(printf %s "$password" | sha256sum | cut -d ' ' -f 1)
  exec redis-server "$(dirname "$0")/redis.conf" "$@" - << END
user default on #$digest ~spanmill* ~_kombu* ~*celery* &* +@all -@dangerous +info
END
  ;;
check)
  REDISCLI_AUTH=$password redis-cli "$@" ping | grep -qx PONG
  ;;
*)
  echo "start.sh: serve or check, not $what" >&2
  exit 2
  ;;
esac
