#!/usr/bin/env bash
# Starts {{ role }} with the settings of this folder, and stays in the foreground; Ctrl-C stops it.
set -euo pipefail
exec fedkvasir site start "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
