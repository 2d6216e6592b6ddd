# Shared by the scripts of this folder: where things are kept, and how a script
# talks. Sourced, not run.
# shellcheck shell=bash

# Everything that is fetched or built outside `target/` lives in one folder, so
# that a second clone, or a CI run, finds it again.
LLAMERO_CACHE="${LLAMERO_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/llamero}"
LLAMERO_VENV="${LLAMERO_VENV:-$LLAMERO_CACHE/venv}"
LLAMERO_MODEL_DIR="${LLAMERO_MODEL_DIR:-$LLAMERO_CACHE/models}"
export LLAMERO_CACHE LLAMERO_VENV LLAMERO_MODEL_DIR

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# Prints the nats-server to use: $NATS_SERVER_BIN, the search path, or the place
# where Debian puts it, which is often not on a user's path.
nats_server() {
  if [ -n "${NATS_SERVER_BIN:-}" ]; then
    [ -x "$NATS_SERVER_BIN" ] || return 1
    printf '%s\n' "$NATS_SERVER_BIN"
  elif have nats-server; then
    command -v nats-server
  elif [ -x /usr/sbin/nats-server ]; then
    printf '%s\n' /usr/sbin/nats-server
  else
    return 1
  fi
}
